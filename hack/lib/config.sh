# What the cluster on one machine looks like: names, addresses, folders. Sourced by every script in hack/.
#
# STEERSMAN_STATE moves the folder that everything lives in (default: .cluster in the repository); a second cluster on the
# same machine needs its own folder, its own cgroup (STEERSMAN_CGROUP) and its own network namespace around hack/up.
# shellcheck shell=bash disable=SC2034

REPO=$(cd "$HACK/.." && pwd)
STATE=${STEERSMAN_STATE:-$REPO/.cluster}
CGROUP=${STEERSMAN_CGROUP:-steersman} # cgroup root of node N is /$CGROUP/N
MAX_PODS=${STEERSMAN_MAX_PODS:-110}   # of each node, when it is made; it has 253 addresses for pods

CACHE=$STATE/cache # downloads and images: survives hack/down
BIN=$STATE/bin     # links to every tool in use
PKI=$STATE/pki     # survives hack/down
LOGS=$STATE/logs
RUN=$STATE/run       # NAME.pid: the program; NAME.loop: what starts it again
NODES=$STATE/nodes   # one folder per node
CONF=$STATE/conf     # kubeconfig files of the components
ADMIN=$STATE/admin.kubeconfig

# 198.18.0.0/15 is set aside for tests of networks (RFC 2544). The host is .1, node i is .(10+i).
LINK=steersman0
UNDERLAY=198.18.30
HOST_IP=$UNDERLAY.1
PODS=10.231 # node i has $PODS.i.0/24
POD_CIDR=$PODS.0.0/16
SERVICE_CIDR=10.232.0.0/16
SERVICE_API=10.232.0.1
SERVICE_DNS=10.232.0.10
# The second family of hack/up --dual-stack: unique local addresses, which lead nowhere outside. Node i is $UNDERLAY6::(10+i).
DUAL=
UNDERLAY6=fd73:7465:6572
HOST_IP6=$UNDERLAY6::1
PODS6=fd73:7465:6573 # node i has $PODS6:i::/64
POD6_CIDR=$PODS6::/48
SERVICE6_CIDR=fd73:7465:6574::/112
DOMAIN=cluster.local

API_PORT=6443 # of the first API server; the next ones count up
BALANCER_PORT=6442 # in front of them, when there are several
REGISTRY_PORT=5000
MAX_NODES=200
PAUSE_IMAGE=registry.k8s.io/pause:3.10.2

export PATH="$BIN:$PATH:/usr/local/sbin:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin"

node_ip() { echo "$UNDERLAY.$((10 + $1))"; }
node_ip6() { printf '%s::%x\n' "$UNDERLAY6" $((10 + $1)); }
node_pods6() { printf '%s:%x::/64\n' "$PODS6" "$1"; }
# families IPV4 IPV6: what a dual-stack cluster is told, or the first alone.
families() { echo "$1${DUAL:+,$2}"; }
etcd_client_port() { echo $((2369 + 10 * $1)); }
etcd_peer_port() { echo $((2370 + 10 * $1)); }
# The port that clients use, with the wanted number of API servers.
front_port() { if ((APISERVERS > 1)); then echo $BALANCER_PORT; else echo "$API_PORT"; fi; }
api_port() { echo $((API_PORT - 1 + $1)); }

# etcd_endpoints COUNT -> comma separated URLs
etcd_endpoints() {
  local i out=
  for ((i = 1; i <= $1; i++)); do out+=",https://127.0.0.1:$(etcd_client_port "$i")"; done
  echo "${out#,}"
}
