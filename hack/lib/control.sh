# etcd, the control plane and cluster DNS: which commands they are. Sourced.
# shellcheck shell=bash

# A second API server may be another program than the first (--bin kube-apiserver-2=FILE).
program() { if [[ $1 == kube-apiserver-* ]] && ! [ -e "$BIN/$1" ]; then echo "$BIN/kube-apiserver"; else echo "$BIN/$1"; fi; }

# api METHOD PATH [CURL_OPTIONS...]: a request as the administrator, to the first API server or the one on port API_PORT.
api() {
  curl -sS --fail-with-body --max-time 5 --cacert "$PKI/ca.crt" --cert "$PKI/admin.crt" --key "$PKI/admin.key" \
    -X "$1" "https://127.0.0.1:$API_PORT$2" "${@:3}" 2>>"$LOGS/up.log"
}

etcd_up() { # COUNT
  local i cluster=
  for ((i = 1; i <= $1; i++)); do cluster+=",etcd-$i=https://127.0.0.1:$(etcd_peer_port "$i")"; done
  cluster=${cluster#,}
  if [ -s "$STATE/etcd/cluster" ] && [ "$cluster" != "$(<"$STATE/etcd/cluster")" ]; then
    die "the cluster has another number of etcd members; hack/down first"
  fi
  mkdir -p "$STATE/etcd"
  echo "$cluster" >"$STATE/etcd/cluster"
  for ((i = 1; i <= $1; i++)); do
    start "etcd-$i" "$(program etcd)" --name "etcd-$i" --data-dir "$STATE/etcd/$i" \
      --listen-client-urls "https://127.0.0.1:$(etcd_client_port "$i")" --advertise-client-urls "https://127.0.0.1:$(etcd_client_port "$i")" \
      --listen-peer-urls "https://127.0.0.1:$(etcd_peer_port "$i")" --initial-advertise-peer-urls "https://127.0.0.1:$(etcd_peer_port "$i")" \
      --initial-cluster "$cluster" --initial-cluster-state new --initial-cluster-token steersman \
      --client-cert-auth --trusted-ca-file "$PKI/etcd-ca.crt" --cert-file "$PKI/etcd.crt" --key-file "$PKI/etcd.key" \
      --peer-client-cert-auth --peer-trusted-ca-file "$PKI/etcd-ca.crt" --peer-cert-file "$PKI/etcd.crt" --peer-key-file "$PKI/etcd.key" \
      --quota-backend-bytes 4294967296 --log-level warn
  done
}

apiservers_up() { # COUNT ETCD_COUNT
  local i suffix several=()
  # On one address they cannot say where each of them is; the balancer's address is published instead.
  (($1 == 1)) || several=(--endpoint-reconciler-type=none)
  for ((i = 1; i <= $1; i++)); do
    suffix=
    ((i == 1)) || suffix=-$i
    start "kube-apiserver$suffix" "$(program "kube-apiserver$suffix")" \
      --etcd-servers="$(etcd_endpoints "$2")" --etcd-cafile="$PKI/etcd-ca.crt" --etcd-certfile="$PKI/etcd-client.crt" --etcd-keyfile="$PKI/etcd-client.key" \
      --advertise-address="$HOST_IP" --bind-address=0.0.0.0 --secure-port="$(api_port "$i")" --service-cluster-ip-range="$(families "$SERVICE_CIDR" "$SERVICE6_CIDR")" \
      --authorization-mode=Node,RBAC --client-ca-file="$PKI/ca.crt" \
      --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
      --service-account-issuer="https://kubernetes.default.svc.$DOMAIN" --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
      --kubelet-client-certificate="$PKI/kubelet-client.crt" --kubelet-client-key="$PKI/kubelet-client.key" --kubelet-certificate-authority="$PKI/ca.crt" \
      --kubelet-preferred-address-types=InternalIP --enable-admission-plugins=NodeRestriction --allow-privileged=true \
      --requestheader-client-ca-file="$PKI/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
      --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
      --proxy-client-cert-file="$PKI/front-proxy-client.crt" --proxy-client-key-file="$PKI/front-proxy-client.key" \
      --enable-aggregator-routing=true "${several[@]}"
  done
}

# balancer_up API_SERVERS: what all clients talk to when there are several. Its program is compiled when it is needed.
balancer_up() {
  local i servers=()
  if (($1 == 1)); then
    stop balancer
    return
  fi
  if ! [ "$CACHE/balancer" -nt "$HACK/lib/balancer.rs" ]; then
    rustc --edition 2024 -C opt-level=s -C strip=symbols -o "$CACHE/balancer.new" "$HACK/lib/balancer.rs" 9>&-
    mv "$CACHE/balancer.new" "$CACHE/balancer"
  fi
  ln -sfn "$CACHE/balancer" "$BIN/balancer"
  for ((i = 1; i <= $1; i++)); do servers+=("127.0.0.1:$(api_port "$i")"); done
  start balancer "$(program balancer)" "127.0.0.1:$BALANCER_PORT,$HOST_IP:$BALANCER_PORT" "$PKI/ca.crt" "${servers[@]}"
}

# balancer_published API_SERVERS: makes the balancer the endpoint of the Service "kubernetes", as whoever runs one does.
balancer_published() {
  local slices=/apis/discovery.k8s.io/v1/namespaces/default/endpointslices endpoints=/api/v1/namespaces/default/endpoints
  local port="\"ports\":[{\"name\":\"https\",\"port\":$BALANCER_PORT,\"protocol\":\"TCP\"}]"
  local slice="\"endpoints\":[{\"addresses\":[\"$HOST_IP\"],\"conditions\":{\"ready\":true}}],$port"
  local subset="\"subsets\":[{\"addresses\":[{\"ip\":\"$HOST_IP\"}],$port}]"
  (($1 > 1)) || return 0
  ensure "$endpoints" kubernetes '{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"kubernetes",
    "labels":{"endpointslice.kubernetes.io/skip-mirror":"true"}},'"$subset"'}'
  ensure "$slices" kubernetes '{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
    "metadata":{"name":"kubernetes","labels":{"kubernetes.io/service-name":"kubernetes"}},'"$slice"'}'
  # They are there already when there was one server before.
  set -- -H 'Content-Type: application/merge-patch+json' --data
  api PATCH "$endpoints/kubernetes" "$@" "{$subset}" >/dev/null && api PATCH "$slices/kubernetes" "$@" "{$slice}" >/dev/null ||
    die "could not publish the balancer as the endpoint of the Service kubernetes (see $LOGS/up.log)"
}

api_has() { api GET "$1" >/dev/null; }
apiserver_ready() { API_PORT=$(api_port "$1") api_has /readyz; } # NUMBER

controllers_up() {
  local config=$CONF/kube-controller-manager.kubeconfig
  start kube-controller-manager "$(program kube-controller-manager)" \
    --kubeconfig="$config" --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --bind-address=127.0.0.1 \
    --tls-cert-file="$PKI/kube-controller-manager-serving.crt" --tls-private-key-file="$PKI/kube-controller-manager-serving.key" \
    --client-ca-file="$PKI/ca.crt" --requestheader-client-ca-file="$PKI/front-proxy-ca.crt" \
    --use-service-account-credentials=true --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" \
    --cluster-cidr="$(families "$POD_CIDR" "$POD6_CIDR")" --allocate-node-cidrs=false \
    --service-cluster-ip-range="$(families "$SERVICE_CIDR" "$SERVICE6_CIDR")"
  config=$CONF/kube-scheduler.kubeconfig
  start kube-scheduler "$(program kube-scheduler)" \
    --kubeconfig="$config" --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --bind-address=127.0.0.1 \
    --tls-cert-file="$PKI/kube-scheduler-serving.crt" --tls-private-key-file="$PKI/kube-scheduler-serving.key" \
    --client-ca-file="$PKI/ca.crt" --requestheader-client-ca-file="$PKI/front-proxy-ca.crt"
}

dns_up() {
  start cluster-dns "$(program cluster-dns)" --kubeconfig="$CONF/cluster-dns.kubeconfig" --listen="$HOST_IP:53" --cluster-domain="$DOMAIN"
}

# Where nodes pull images from.
registry_up() {
  ln -sfn "$CACHE/registry" "$BIN/registry"
  start registry "$(program registry)" "$HOST_IP:$REGISTRY_PORT" "$CACHE/images" "$CACHE/suite"
}

# The objects that make cluster DNS a Service, and let it read what it serves.
dns_objects() {
  local rbac=/apis/rbac.authorization.k8s.io/v1 system=namespaces/kube-system
  ensure "$rbac/clusterroles" system:cluster-dns '{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"system:cluster-dns"},
    "rules":[{"apiGroups":[""],"resources":["services"],"verbs":["list","watch"]},
             {"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":["list","watch"]}]}'
  ensure "$rbac/clusterrolebindings" system:cluster-dns '{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"system:cluster-dns"},
    "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:cluster-dns"},
    "subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"system:cluster-dns"}]}'
  ensure "/api/v1/$system/services" kube-dns '{"apiVersion":"v1","kind":"Service",
    "metadata":{"name":"kube-dns","namespace":"kube-system","labels":{"k8s-app":"kube-dns","kubernetes.io/name":"CoreDNS"}},
    "spec":{"clusterIP":"'"$SERVICE_DNS"'","ports":[{"name":"dns","port":53,"protocol":"UDP"},{"name":"dns-tcp","port":53,"protocol":"TCP"}]}}'
  ensure "/apis/discovery.k8s.io/v1/$system/endpointslices" kube-dns-host '{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",
    "metadata":{"name":"kube-dns-host","namespace":"kube-system",
      "labels":{"kubernetes.io/service-name":"kube-dns","endpointslice.kubernetes.io/managed-by":"hack.steersman.dev"}},
    "addressType":"IPv4","ports":[{"name":"dns","port":53,"protocol":"UDP"},{"name":"dns-tcp","port":53,"protocol":"TCP"}],
    "endpoints":[{"addresses":["'"$HOST_IP"'"],"conditions":{"ready":true}}]}'
}

# ensure PATH NAME BODY: makes an object that does not exist. Tries again while the server's own start-up objects
# (namespace kube-system, the RBAC policy) are still being made.
ensure() {
  local answer tries
  for ((tries = 0; tries < 100; tries++)); do
    ! api GET "$1/$2" >/dev/null || return 0
    ! answer=$(api POST "$1" -H 'Content-Type: application/json' --data "$3") || return 0
    sleep 0.05
  done
  die "could not create $2 at $1: $answer"
}

# dns_answers SERVER [NAMESPACE_FROM_WHICH]
dns_answers() {
  local query=(timeout 0.5 "$BIN/busybox" nslookup "kubernetes.default.svc.$DOMAIN" "$1")
  if [ -n "${2:-}" ]; then query=(nsenter --net="$(pin "$2")" -- "${query[@]}"); fi
  "${query[@]}" 2>/dev/null | grep -q "$SERVICE_API"
}
