# The network between the host and the nodes. Sourced.
#
#   host --steersman0-- [ namespace fabric: bridge br0 ] --eth0-- [ namespace node-i ] --cni0-- pods
#
# The bridge has a namespace of its own, so that the host's firewall never sees what the nodes say to each other.
# Nothing may leave the machine: nodes have no default route, the host has unreachable routes for the pod and the service
# range before anything starts, and it refuses to forward to or from steersman0 (a node cannot use it as a router).
# Namespaces are pinned under RUN/ns; /run/netns of the host is not touched.
# shellcheck shell=bash

# Routes of the host's own that happen to cover a range win over ours.
GUARD_METRIC=4000000000
GUARD_TABLE=steersman

pin() { echo "$RUN/ns/$1"; }
pinned() { [ "$(stat -f -c %T "$(pin "$1")" 2>/dev/null)" = nsfs ]; }
inside() { nsenter --net="$(pin "$1")" -- "${@:2}"; }

new_namespace() {
  mkdir -p "$RUN/ns"
  : >"$(pin "$1")"
  unshare --net="$(pin "$1")" true
}

drop_namespace() {
  pinned "$1" && umount "$(pin "$1")"
  rm -f "$(pin "$1")"
}

guard_up() {
  local range
  for range in "$SERVICE_CIDR" "$POD_CIDR"; do
    ip route replace unreachable "$range" metric $GUARD_METRIC
  done
  for range in ${DUAL:+"$SERVICE6_CIDR" "$POD6_CIDR"}; do
    ip -6 route replace unreachable "$range" metric $GUARD_METRIC
  done
  nft -f - <<END
table inet $GUARD_TABLE
delete table inet $GUARD_TABLE
table inet $GUARD_TABLE {
  chain forward {
    type filter hook forward priority -300; policy accept;
    iifname "$LINK" reject
    oifname "$LINK" reject
  }
}
END
}

guard_down() {
  local range
  for range in "$SERVICE_CIDR" "$POD_CIDR"; do
    ip route del unreachable "$range" metric $GUARD_METRIC 2>/dev/null || true
  done
  for range in "$SERVICE6_CIDR" "$POD6_CIDR"; do
    ip -6 route del unreachable "$range" metric $GUARD_METRIC 2>/dev/null || true
  done
  nft delete table inet $GUARD_TABLE 2>/dev/null || true
}

network_up() {
  pinned fabric && return
  guard_up
  new_namespace fabric
  inside fabric ip -batch - <<END
link set lo up
link add br0 type bridge
link set br0 up
link add host0 type veth peer name $LINK
link set host0 master br0 up
END
  # By process id: the host's namespace has no name.
  inside fabric ip link set "$LINK" netns $$
  ip -batch - <<END
addr add $HOST_IP/24 dev $LINK
${DUAL:+addr add $HOST_IP6/64 dev $LINK nodad}
link set $LINK up
END
}

network_down() {
  ip link del "$LINK" 2>/dev/null || true
  drop_namespace fabric
  guard_down
}

# node_network_up I: the node's namespace with its cable to the bridge.
node_network_up() {
  local i=$1 node=node-$1
  pinned "$node" && return
  new_namespace "$node"
  inside fabric ip link add "n$i" type veth peer name eth0 netns "$(pin "$node")"
  inside fabric ip link set "n$i" master br0 up
  # Services need a route before their address is translated; what is not translated ends at the host's unreachable route.
  inside "$node" ip -batch - <<END
link set lo up
addr add $(node_ip "$i")/24 dev eth0
${DUAL:+addr add $(node_ip6 "$i")/64 dev eth0 nodad}
link set eth0 up
route add $SERVICE_CIDR via $HOST_IP
${DUAL:+route add $SERVICE6_CIDR via $HOST_IP6}
END
  ip route replace "$PODS.$i.0/24" via "$(node_ip "$i")"
  [ -z "$DUAL" ] || ip -6 route replace "$(node_pods6 "$i")" via "$(node_ip6 "$i")"
}

# node_routes COUNT: every node's way to every other node's pods.
node_routes() {
  local i j
  for ((i = 1; i <= $1; i++)); do
    for ((j = 1; j <= $1; j++)); do
      ((i == j)) && continue
      echo "route replace $PODS.$j.0/24 via $(node_ip "$j")"
      [ -z "$DUAL" ] || echo "route replace $(node_pods6 "$j") via $(node_ip6 "$j")"
    done | inside "node-$i" ip -batch -
  done
}

node_network_down() {
  ip route del "$PODS.${1#node-}.0/24" 2>/dev/null || true
  ip -6 route del "$(node_pods6 "${1#node-}")" 2>/dev/null || true
  drop_namespace "$1"
}
