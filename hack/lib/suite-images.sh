# The images that the official end-to-end suite names, made from Debian packages, given binaries and our own programs:
# one recipe each. Sourced by hack/images.
#
# What each must contain follows from what the tests call in it. Tags do not matter to a recipe: the suite says which it
# wants. Needs oci.sh, and from hack/images: work, SOURCES, rust_static, AGNHOST, SAMPLE_APISERVER.
# shellcheck shell=bash

E2E=registry.k8s.io/e2e-test-images
# A test compares what the shell says about a file that it cannot create: busybox of Debian 12 says it as upstream's image
# does, later ones add a line number.
SUITE_SUITES="sid bookworm"
SUITE_PACKAGES="bash dash busybox/bookworm bind9-dnsutils bind9-host curl netcat-openbsd iproute2 util-linux libc-bin libc6 coreutils grep sed mawk hostname
  etcd-server perl-base"

# suite_image NAME: makes the image; status 1 and a reason in $reason if it cannot be made here.
suite_image() {
  reason="no stand-in is known"
  case ${1%:*} in
    "$E2E/agnhost") agnhost_image "$1" ;;
    "$E2E/nautilus" | "$E2E/kitten") picture_image "$1" ;;
    "$E2E/nginx") agnhost_layers && image "$1" '"Entrypoint":["/agnhost"],"Cmd":["test-webserver"]' "${agnhost[@]}" ;;
    "$E2E/busybox") busybox_layer && image "$1" '"Cmd":["sh"]' "$busybox" ;;
    "$E2E/nonroot") busybox_layer && image "$1" '"User":"1234","Entrypoint":["/bin/sh","-c","id -u; sleep 3600"]' "$busybox" ;;
    "$E2E/glibc-dns-testing") glibc_image "$1" ;;
    "$E2E/ipc-utils") tools_layer && image "$1" '"Cmd":["sh"]' "$tools" ;;
    "$E2E/perl") perl_image "$1" ;;
    "$E2E/nonewprivs") nonewprivs_image "$1" ;;
    "$E2E/sample-apiserver") sample_apiserver_image "$1" ;;
    registry.k8s.io/etcd) etcd_image "$1" ;;
    *) return 1 ;;
  esac
}

# suite_cost NAME: which conformance tests need the image.
suite_cost() {
  case ${1%:*} in
    "$E2E/agnhost") echo "nearly every test that runs a pod" ;;
    "$E2E/nautilus") echo "two tests of cli/kubectl (Update Demo)" ;;
    "$E2E/kitten") echo "the test of node/image-volume" ;;
    "$E2E/busybox") echo "most tests of node/* and storage/*" ;;
    "$E2E/glibc-dns-testing") echo "the tests of network/dns" ;;
    "$E2E/nonewprivs") echo "one test of node/security-context (AllowPrivilegeEscalation)" ;;
    "$E2E/sample-apiserver" | registry.k8s.io/etcd) echo "the test of api-machinery/aggregator" ;;
    *) echo "no conformance test" ;;
  esac
}

# programs ROOT PATH...: programs of the unpacked packages, with the loader and the libraries that they name. (Recipes run
# where errexit is off, hence the explicit ends.)
programs() {
  local root=$1 loader path library found
  # shellcheck disable=SC2144 # one of the two
  for loader in "$PACKAGES"/usr/lib64/ld-linux-*.so.* "$PACKAGES"/usr/lib/ld-linux-*.so.*; do [ ! -e "$loader" ] || break; done
  for path in "${loader#"$PACKAGES"/}" "${@:2}"; do
    put "$root" "$path"
    [ "$PACKAGES/$path" != "$loader" ] || continue
    found=$("$loader" --library-path "$(echo "$PACKAGES"/usr/lib/*-linux-gnu)" --list "$PACKAGES/$path") || die "$path: $found"
    for library in $(grep -oE "$PACKAGES/[^ ]+" <<<"$found"); do put "$root" "${library#"$PACKAGES"/}"; done
  done
}

put() {
  if [ -e "$1/$2" ]; then return; fi
  mkdir -p "$1/${2%/*}" && cp -L "$PACKAGES/$2" "$1/$2" || die "could not put $2 into an image"
}

# base ROOT OS_NAME: an empty system with busybox in it.
base() {
  local folder
  mkdir -p "$1"/{dev,etc,home,proc,root,sys,run,var,usr/bin,usr/sbin,usr/lib,usr/lib64,usr/local/bin}
  mkdir -m 1777 "$1/tmp" "$1/var/tmp"
  for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$1/$folder"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/sbin/nologin\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$1/etc/passwd"
  printf 'root:x:0:\nbin:x:1:\nnogroup:x:65534:\n' >"$1/etc/group"
  printf 'hosts: files dns\npasswd: files\ngroup: files\n' >"$1/etc/nsswitch.conf"
  # The image volume test reads the system's name; upstream's images are Alpine's.
  printf 'NAME="%s"\nPRETTY_NAME="%s (stand-in)"\n' "$2" "$2" >"$1/etc/os-release"
  programs "$1" bin/busybox
}

# applets ROOT: links for every applet that is not there as a program of its own.
applets() {
  local applet
  for applet in $("$BIN/busybox" --list); do
    [ -e "$1/usr/bin/$applet" ] || [ -e "$1/usr/sbin/$applet" ] || ln -s busybox "$1/usr/bin/$applet"
  done
}

busybox_layer() {
  [ -z "${busybox:-}" ] || return 0
  local root=$work/suite-busybox
  base "$root" "Alpine Linux"
  programs "$root" usr/bin/bash
  rust_static "$SOURCES/sh.rs" "$root/usr/bin/sh"
  applets "$root"
  busybox=$(layer "$root")
}

# What the tests call in agnhost's image besides agnhost.
tools_layer() {
  [ -z "${tools:-}" ] || return 0
  local root=$work/suite-tools
  base "$root" "Alpine Linux"
  programs "$root" usr/bin/{bash,dig,nslookup,host,curl,nc.openbsd,ss,ip,ipcs,getent}
  ln -s nc.openbsd "$root/usr/bin/nc"
  ln -s ../bin/ip "$root/usr/sbin/ip"
  applets "$root"
  echo 'user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh' >>"$root/etc/passwd"
  printf 'user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n' >>"$root/etc/group"
  mkdir -p "$root/uploads" "$root/var/registry"
  # porter's TLS ports; nobody checks who signed it
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$root/localhost.key" -out "$root/localhost.crt" 2>/dev/null
  chmod 644 "$root/localhost.key"
  tools=$(layer "$root")
}

agnhost_layers() {
  [ -z "${agnhost:-}" ] || return 0
  reason="needs --agnhost"
  [ -n "$AGNHOST" ] || return 1
  tools_layer
  local root=$work/suite-agnhost
  mkdir -p "$root"
  stripped "$AGNHOST" "$root/agnhost"
  ln -s agnhost "$root/agnhost-2"
  agnhost=("$tools" "$(layer "$root")")
}

# stripped FROM TO: without symbols, which are a third of what each node unpacks.
stripped() {
  cp -L "$1" "$2"
  chmod 755 "$2"
  strip "$2" 2>/dev/null || true
}

agnhost_image() { agnhost_layers && image "$1" '"Entrypoint":["/agnhost"],"Cmd":["pause"]' "${agnhost[@]}"; }

picture_image() {
  agnhost_layers || return 1
  local root name=${1##*/}
  name=${name%:*} root=$work/suite-${name%:*}
  mkdir -p "$root"
  printf '{"image":"%s.jpg"}\n' "$name" >"$root/data.json"
  printf '\xff\xd8\xff\xd9' >"$root/$name.jpg"
  image "$1" '"Entrypoint":["/agnhost"],"Cmd":["test-webserver"]' "${agnhost[@]}" "$(layer "$root")"
}

glibc_image() {
  local root=$work/suite-glibc
  base "$root" "Debian GNU/Linux"
  programs "$root" usr/bin/{bash,dash,dig,nslookup,host,getent,grep,sed,mawk,hostname} \
    usr/bin/{seq,cat,ls,sleep,head,tail,cut,tr,test,date,mkdir,rm,echo,expr,true,false,wc,sort,timeout,env}
  ln -s dash "$root/usr/bin/sh"
  ln -s mawk "$root/usr/bin/awk"
  applets "$root"
  image "$1" '"Cmd":["bash"]' "$(layer "$root")"
}

perl_image() {
  local root=$work/suite-perl
  base "$root" "Debian GNU/Linux"
  programs "$root" usr/bin/perl
  cp -a "$PACKAGES"/usr/lib/*-linux-gnu/perl-base "$(echo "$root"/usr/lib/*-linux-gnu)"
  applets "$root"
  image "$1" '"Cmd":["perl"]' "$(layer "$root")"
}

# Setuid root, so that the test sees whether no_new_privs holds.
nonewprivs_image() {
  local root=$work/suite-nonewprivs
  base "$root" "Alpine Linux"
  applets "$root"
  rust_static "$SOURCES/nonewprivs.rs" "$root/nnp"
  chmod 4755 "$root/nnp"
  image "$1" '"Entrypoint":["/nnp"]' "$(layer "$root")"
}

sample_apiserver_image() {
  reason="needs --sample-apiserver"
  [ -n "$SAMPLE_APISERVER" ] || return 1
  local root=$work/suite-sample-apiserver
  base "$root" "Alpine Linux"
  stripped "$SAMPLE_APISERVER" "$root/sample-apiserver"
  image "$1" '"Entrypoint":["/sample-apiserver"]' "$(layer "$root")"
}

etcd_image() {
  local root=$work/suite-etcd
  base "$root" "Debian GNU/Linux"
  applets "$root"
  programs "$root" usr/bin/etcd
  ln -s ../../bin/etcd "$root/usr/local/bin/etcd"
  image "$1" '"Cmd":["/usr/local/bin/etcd"]' "$(layer "$root")"
}
