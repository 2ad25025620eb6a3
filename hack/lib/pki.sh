# Keys, certificates and kubeconfig files. Sourced.
#
# Made once and kept across hack/down. Names and organisations are those that upstream's RBAC policy and authorizers know.
# Three authorities: the cluster's, etcd's (mutual TLS) and the front proxy's.
# shellcheck shell=bash

PKI_DAYS=3650

authority() { # NAME SUBJECT
  [ -s "$PKI/$1.crt" ] && return
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$PKI/$1.key" -out "$PKI/$1.crt.new" -subj "$2" \
    -days $PKI_DAYS -config "$PKI/openssl.cnf" -extensions authority 2>>"$LOGS/pki.log"
  mv "$PKI/$1.crt.new" "$PKI/$1.crt"
}

# certificate NAME AUTHORITY SUBJECT USAGE [ALTERNATIVE_NAMES]; USAGE is client, server or peer (both).
certificate() {
  [ -s "$PKI/$1.crt" ] && return
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$PKI/$1.key" -out "$PKI/$1.crt.new" -subj "$3" \
    -CA "$PKI/$2.crt" -CAkey "$PKI/$2.key" -days $PKI_DAYS -config "$PKI/openssl.cnf" -extensions "$4" \
    ${5:+-addext "subjectAltName=$5"} 2>>"$LOGS/pki.log"
  mv "$PKI/$1.crt.new" "$PKI/$1.crt"
}

# kubeconfig FILE CERTIFICATE SERVER: credentials are embedded, so that the file can be copied anywhere.
kubeconfig() {
  [ "$1" -nt "$PKI/$2.crt" ] && [ "$1" -nt "$PKI/ca.crt" ] && grep -qF "server: $3" "$1" && return
  cat >"$1.new" <<END
apiVersion: v1
kind: Config
clusters:
- name: steersman
  cluster:
    server: $3
    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
users:
- name: $2
  user:
    client-certificate-data: $(base64 -w0 "$PKI/$2.crt")
    client-key-data: $(base64 -w0 "$PKI/$2.key")
contexts:
- name: steersman
  context: {cluster: steersman, user: $2}
current-context: steersman
END
  mv "$1.new" "$1"
}

# make_pki NODES: everything for a control plane and that many nodes.
make_pki() {
  local i names jobs=() port
  umask 077
  mkdir -p "$PKI" "$CONF"
  cat >"$PKI/openssl.cnf" <<'END'
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,digitalSignature,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
[peer]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
authorityKeyIdentifier = keyid
END
  authority ca /CN=kubernetes
  authority etcd-ca /CN=etcd-ca
  authority front-proxy-ca /CN=front-proxy-ca

  local loopback=IP:127.0.0.1,DNS:localhost
  names=$loopback,IP:$HOST_IP,IP:$SERVICE_API,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$DOMAIN
  certificate etcd etcd-ca /CN=etcd peer "$loopback" & jobs+=($!)
  certificate etcd-client etcd-ca /CN=kube-apiserver-etcd-client client & jobs+=($!)
  certificate apiserver ca /CN=kube-apiserver server "$names" & jobs+=($!)
  certificate kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client client & jobs+=($!)
  certificate front-proxy-client front-proxy-ca /CN=front-proxy-client client & jobs+=($!)
  certificate admin ca /O=system:masters/CN=kubernetes-admin client & jobs+=($!)
  certificate kube-controller-manager ca /CN=system:kube-controller-manager client & jobs+=($!)
  certificate kube-controller-manager-serving ca /CN=kube-controller-manager server "$loopback" & jobs+=($!)
  certificate kube-scheduler ca /CN=system:kube-scheduler client & jobs+=($!)
  certificate kube-scheduler-serving ca /CN=kube-scheduler server "$loopback" & jobs+=($!)
  certificate kube-proxy ca /CN=system:kube-proxy client & jobs+=($!)
  certificate cluster-dns ca /CN=system:cluster-dns client & jobs+=($!)
  for ((i = 1; i <= $1; i++)); do
    certificate "node-$i" ca "/O=system:nodes/CN=system:node:node-$i" client & jobs+=($!)
    certificate "node-$i-serving" ca "/O=system:nodes/CN=system:node:node-$i" server "IP:$(node_ip "$i"),DNS:node-$i" & jobs+=($!)
  done
  if ! [ -s "$PKI/sa.pub" ]; then
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$PKI/sa.key" 2>>"$LOGS/pki.log"
    openssl pkey -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>>"$LOGS/pki.log"
  fi
  for i in "${jobs[@]}"; do wait "$i" || die "could not make the certificates (see $LOGS/pki.log)"; done

  port=$(front_port)
  kubeconfig "$ADMIN" admin "https://127.0.0.1:$port"
  kubeconfig "$CONF/kube-controller-manager.kubeconfig" kube-controller-manager "https://127.0.0.1:$port"
  kubeconfig "$CONF/kube-scheduler.kubeconfig" kube-scheduler "https://127.0.0.1:$port"
  kubeconfig "$CONF/cluster-dns.kubeconfig" cluster-dns "https://127.0.0.1:$port"
  kubeconfig "$CONF/kube-proxy.kubeconfig" kube-proxy "https://$HOST_IP:$port"
  for ((i = 1; i <= $1; i++)); do kubeconfig "$CONF/node-$i.kubeconfig" "node-$i" "https://$HOST_IP:$port"; done
  umask 022
}
