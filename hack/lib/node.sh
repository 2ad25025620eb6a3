# Nodes: namespaces, containerd, kubelet, kube-proxy, and their end. Sourced.
#
# A node is a network, a mount and a UTS namespace. A sleeping process, the holder (RUN/NAME.holder), keeps them; the
# node's programs are started in its namespaces. The standard paths are the node's own by bind mounts, so that each node's
# programs run with standard settings.
# shellcheck shell=bash

# Where a node's own folders are mounted. (The host gets empty ones where it has none; hack/down removes those again.)
NODE_DIRS="/var/lib/kubelet /var/lib/containerd /run/containerd /var/log/pods /var/log/containers /etc/cni/net.d /var/lib/cni /run/netns"

# Runs a command in a node's namespaces.
in_node() { nsenter -t "$(holder_pid "$1")" --net --mount --uts -- "${@:2}"; }

holder_pid() {
  local pid
  [ -s "$RUN/$1.holder" ] && read -r pid <"$RUN/$1.holder" || return 1
  [ "/proc/$pid/ns/net" -ef "$(pin "$1")" ] && ! [ "/proc/$pid/ns/mnt" -ef /proc/self/ns/mnt ] && echo "$pid"
}

# The host's mount points for NODE_DIRS, remembering which had to be made, parents first.
mount_points_up() {
  local dir path part
  for dir in $NODE_DIRS; do
    path=
    while IFS= read -r -d / part; do
      [ -n "$part" ] || continue
      path+=/$part
      [ -d "$path" ] || { mkdir "$path" && echo "$path" >>"$STATE/made-folders"; }
    done <<<"$dir/"
  done
}

# Removes them again. A folder that somebody's mount namespace still uses (another cluster on this machine) stays: removing
# it would silently end their mount.
mount_points_down() {
  local dir used
  [ -s "$STATE/made-folders" ] || return 0
  # A process that is just ending has no mountinfo to read.
  used=$({ cat /proc/[0-9]*/mountinfo 2>/dev/null || true; } | cut -d' ' -f5 | sort -u)
  tac "$STATE/made-folders" | while read -r dir; do
    grep -qxF "$dir" <<<"$used" || rmdir "$dir" 2>/dev/null || true
  done
  rm -f "$STATE/made-folders"
}

# node_up I: namespaces and containerd; what needs no API server.
node_up() {
  local i=$1 node=node-$1 holder
  node_network_up "$i"
  node_files "$i"
  if ! holder=$(holder_pid "$node"); then
    rm -f "$RUN/$node.holder"
    setsid nsenter --net="$(pin "$node")" -- unshare --mount --uts --propagation slave -- \
      env -i PATH="$PATH" "$HACK/lib/node-init" "$node" "$NODES/$node" "$RUN/$node.holder" "$CGROUP/$node" "$NODE_DIRS" \
      >>"$LOGS/$node.init.log" 2>&1 </dev/null 9>&- &
    wait_until 10 "namespaces of $node" "$node.init" [ -s "$RUN/$node.holder" ]
    holder=$(<"$RUN/$node.holder")
  fi
  start "$node.containerd" in "$holder" "$BIN/containerd" -c "$NODES/$node/containerd.toml"
}

# node_agents_up I: the programs that talk to the API server.
node_agents_up() {
  local i=$1 node=node-$1 holder
  holder=$(holder_pid "$node")
  start "$node.kubelet" in "$holder" "$(program kubelet)" --config="$NODES/$node/kubelet.yaml" --kubeconfig="$CONF/$node.kubeconfig" \
    --hostname-override="$node" --node-ip="$(families "$(node_ip "$i")" "$(node_ip6 "$i")")"
  start "$node.kube-proxy" in "$holder" "$(program kube-proxy)" --config="$NODES/$node/kube-proxy.yaml"
}

containerd_socket() { echo "$NODES/$1/fs/run/containerd/containerd.sock"; }

# images_up I: every test image, under the names that pods use, in the node's containerd.
images_up() {
  local node=node-$1 socket
  socket=$(containerd_socket "$node")
  [ "$NODES/$node/images" -nt "$CACHE/images.tar" ] && return
  wait_until 20 "containerd of $node" "$node.containerd" [ -S "$socket" ]
  wait_until 20 "images of $node (see $LOGS/$node.images.log)" "$node.containerd" import "$socket" "$LOGS/$node.images.log"
  touch "$NODES/$node/images"
}

import() { "$BIN/ctr" --address "$1" --namespace k8s.io images import "$CACHE/images.tar" >"$2" 2>&1; }

# suite_images_up NODE: the suite's images, in the containerd of a node that runs. (Where this was not done, they are pulled.)
suite_images_up() {
  local marker=$NODES/$1/suite-images
  ! [ "$marker" -nt "$CACHE/suite/index.json" ] || return 0
  tar -C "$CACHE/suite" -c oci-layout index.json blobs |
    "$BIN/ctr" --address "$(containerd_socket "$1")" --namespace k8s.io images import - >"$LOGS/$1.images.log" 2>&1 ||
    die "the suite's images could not be imported into $1 (see $LOGS/$1.images.log)"
  touch "$marker"
}

# node_ready NAME: whether the Node object's Ready condition is true.
node_ready() {
  local node
  node=$(api GET "/api/v1/nodes/$1") || return 1
  node=$(tr -d ' \n' <<<"$node" | grep -oE '\{[^{}]*"type":"Ready"[^{}]*\}') && [[ $node == *'"status":"True"'* ]]
}

node_files() {
  local i=$1 node=node-$1 dir=$NODES/node-$1 ranges
  mkdir -p "$dir/static"
  [ -s "$dir/kubelet.yaml" ] && return
  ranges="[{\"subnet\": \"$PODS.$i.0/24\"}]"
  [ -z "$DUAL" ] || ranges+=", [{\"subnet\": \"$(node_pods6 "$i")\"}]"
  cat >"$dir/cni.conflist" <<END
{"cniVersion": "1.0.0", "name": "steersman", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [$ranges], "dataDir": "/var/lib/cni/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}
END
  # restrict_oom_score_adj: a container or a small virtual machine may lack CAP_SYS_RESOURCE.
  # NRI is off, and the optional plugins' folder moved: both are fixed paths that nodes and the host would share.
  cat >"$dir/containerd.toml" <<END
version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.internal.v1.opt']
  path = '/var/lib/containerd/opt'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '$PAUSE_IMAGE'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '$dir/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
# a second name for the same, for RuntimeClass objects
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test-handler]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = '127.0.0.1'
END
  # Every registry is asked for at ours first; what it does not have goes the usual way.
  mkdir -p "$dir/certs.d/_default"
  cat >"$dir/certs.d/_default/hosts.toml" <<END
[host."http://$HOST_IP:$REGISTRY_PORT"]
  capabilities = ["pull", "resolve"]
END
  # The host's own resolver cannot be reached from a node: pods with dnsPolicy Default get the cluster's.
  echo "nameserver $SERVICE_DNS" >"$dir/resolv.conf"
  cat >"$dir/kube-proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $(families "$POD_CIDR" "$POD6_CIDR")
hostnameOverride: $node
clientConnection: {kubeconfig: "$CONF/kube-proxy.kubeconfig"}
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 0.0.0.0:10256
END
  cat >"$dir/kubelet.yaml.new" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$PKI/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: "$PKI/$node-serving.crt"
tlsPrivateKeyFile: "$PKI/$node-serving.key"
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP/$node
clusterDNS: ["$SERVICE_DNS"]
clusterDomain: $DOMAIN
resolvConf: $dir/resolv.conf
failSwapOn: false
oomScoreAdj: 0
serializeImagePulls: false
maxPods: $MAX_PODS
evictionHard: {"memory.available": "100Mi", "nodefs.available": "2%", "imagefs.available": "2%", "nodefs.inodesFree": "1%"}
imageGCHighThresholdPercent: 98
imageGCLowThresholdPercent: 97
protectKernelDefaults: false
volumePluginDir: /var/lib/kubelet/volumeplugins
staticPodPath: $dir/static
END
  mv "$dir/kubelet.yaml.new" "$dir/kubelet.yaml"
}

# Everything that lives in a node: its containers by their cgroup; shims and anything else by their mount namespace.
node_processes() { # NAME HOLDER
  local space
  {
    find /sys/fs/cgroup -path "*/$CGROUP/$1/*" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    for space in /proc/[0-9]*/ns/mnt; do
      if [ -n "$2" ] && [ "$space" -ef "/proc/$2/ns/mnt" ]; then
        space=${space#/proc/}
        echo "${space%/ns/mnt}"
      fi
    done
  } | sort -un | grep -vx "${2:-none}" || true
}

# Ends everything that lives in a node, at once. Its mounts go with its mount namespace.
node_down() {
  local node=$1 holder found round
  holder=$(holder_pid "$node") || holder=
  kill_now "$node.kubelet" "$node.kube-proxy" "$node.containerd"
  # Killed programs may have been about to start another one, hence the rounds.
  for ((round = 0; round < 50; round++)); do
    found=$(node_processes "$node" "$holder")
    [ -n "$found" ] || break
    # shellcheck disable=SC2086
    kill -KILL $found 2>/dev/null || true
    sleep 0.02
  done
  [ -z "$holder" ] || kill -KILL "$holder" 2>/dev/null || true
  rm -f "$RUN/$node.holder"
  node_network_down "$node"
  find /sys/fs/cgroup -depth -type d \( -path "*/$CGROUP/$node" -o -path "*/$CGROUP/$node/*" \) -exec rmdir {} \; 2>/dev/null || true
}
