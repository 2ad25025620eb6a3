# The programs that a cluster needs besides our own: what is missing is installed (Debian packages of this release) or
# fetched into the cache (newer ones from Debian sid). Sourced.
#
# The host's own apt stays as it is: the sid packages come through a private apt configuration that is made from the
# host's mirror setting with the suite changed, and are unpacked, not installed. A tool that is there in a sufficient
# version is used as it is.
# shellcheck shell=bash

# command or file, package
HOST_PACKAGES="
nft                      nftables
ip                       iproute2
runc                     runc
/usr/lib/cni/bridge      containernetworking-plugins
conntrack                conntrack
iptables                 iptables
openssl                  openssl
curl                     curl
cc                       gcc
/usr/include/stdio.h     libc6-dev
"

have() { if [[ $1 == /* ]]; then [ -e "$1" ]; else command -v "$1" >/dev/null; fi; }

install_host_packages() {
  local probe package missing=()
  while read -r probe package; do
    [ -n "$probe" ] || continue
    have "$probe" || missing+=("$package")
  done <<<"$HOST_PACKAGES"
  ((${#missing[@]})) || return 0
  have apt-get || die "these programs are missing and this is no Debian system: ${missing[*]}"
  say "installing ${missing[*]}"
  local log=$LOGS/apt.log
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 9>&- && return
  # the usual reason: no package lists yet
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >>"$log" 2>&1 9>&- ||
    { tail -n 5 "$log" >&2; die "could not install ${missing[*]} (see $log)"; }
}

# at_least WANTED VERSION
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# The user's own PATH, without the links that an earlier hack/up made.
outside() { PATH=${PATH//$BIN:/} command -v "$1"; }

# own TOOL WANTED VERSION_COMMAND: prints the path of the user's own TOOL if its version suffices.
own() {
  local path version
  path=$(outside "$1") || return 1
  version=$("$path" "${@:3}" 2>/dev/null | grep -oE 'v?[0-9]+\.[0-9]+\.[0-9]+' | head -n 1) || return 1
  at_least "$2" "${version#v}" && echo "$path"
}

# sid_sources FILE [APT_FOLDER]: prints the name (FILE with its extension) of a sources file for sid (or $SUITES), made from
# the host's entry for its own release: both the deb822 and the one-line format.
sid_sources() {
  local codename file apt=${2:-/etc/apt} suites=${SUITES:-sid}
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  [ -n "$codename" ] || return 1
  for file in "$apt"/sources.list.d/*.sources; do
    [ -e "$file" ] || continue
    awk -v suite="$codename" -v wanted="$suites" '
      function flush(  i, n, suites, hit, off) {
        n = split(value["suites"], suites, " ")
        for (i = 1; i <= n; i++) if (suites[i] == suite) hit = 1
        off = value["enabled"] == "no"
        if (hit && !off && (" " value["types"] " ") ~ / deb /) { printf "Types: deb\nSuites: %s\nComponents: main\n%s", wanted, kept; found = 1; exit }
        kept = ""; delete value
      }
      /^#/ { next }
      /^[ \t]*$/ { flush(); next }
      /^[ \t]/ { if (keep) kept = kept $0 "\n"; next }
      { name = tolower($0); sub(/:.*/, "", name); text = $0; sub(/^[^:]*:[ \t]*/, "", text); value[name] = text
        keep = name != "suites" && name != "components" && name != "types"; if (keep) kept = kept $0 "\n" }
      END { if (!found) flush(); exit !found }' "$file" >"$1.sources" && { echo "$1.sources"; return; }
    rm -f "$1.sources"
  done
  for file in "$apt"/sources.list "$apt"/sources.list.d/*.list; do
    [ -e "$file" ] || continue
    awk -v suite="$codename" -v wanted="$suites" '
      $1 == "deb" { at = 2; options = ""
        if ($2 ~ /^\[/) { do { options = options $at " " } while ($at !~ /\]$/ && at++ < NF); at++ }
        if ($at !~ /^cdrom:/ && $(at + 1) == suite) {
          n = split(wanted, suites, " "); for (i = 1; i <= n; i++) print "deb " options $at " " suites[i] " main"; found = 1; exit } }
      END { exit !found }' "$file" >"$1.list" && { echo "$1.list"; return; }
    rm -f "$1.list"
  done
  return 1
}

# with_sid COMMAND...: runs it in an empty folder with $options, which make apt-get see sid and nothing that is installed.
with_sid() {
  local apt=$CACHE/apt log=$LOGS/apt.log sources options
  have apt-get || die "this is no Debian system: $* is not possible"
  rm -rf "$apt"
  mkdir -p "$apt"/{etc/preferences.d,state/lists/partial,cache/archives/partial,debs} "$LOGS"
  sources=$(sid_sources "$apt/etc/sid") || die "no entry for this Debian release in /etc/apt, so no mirror to fetch from"
  : >"$apt/status"
  options=(-o "Dir::Etc::SourceList=$sources" -o Dir::Etc::SourceParts=- -o "Dir::Etc::Preferences=$apt/etc/none" -o "Dir::Etc::PreferencesParts=$apt/etc/preferences.d"
    -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none)
  (
    set -e
    cd "$apt/debs"
    apt-get "${options[@]}" update
    "$@"
  ) >>"$log" 2>&1 9>&- || { tail -n 5 "$log" >&2; die "could not get packages from Debian sid (see $log)"; }
  rm -rf "$apt"
}

# unpack FOLDER PACKAGE...: called by with_sid.
unpack() {
  local deb
  apt-get "${options[@]}" download "${@:2}" || return
  mkdir -p "$1"
  for deb in ./*.deb; do dpkg -x "$deb" "$1" || return; done
}

# unpack_with_dependencies FOLDER PACKAGE...: the same with all that they depend on; PACKAGE/SUITE comes without.
unpack_with_dependencies() {
  local needed package whole=() alone=()
  for package in "${@:2}"; do
    if [[ $package == */* ]]; then alone+=("$package"); else whole+=("$package"); fi
  done
  needed=$(apt-get "${options[@]}" --simulate --no-install-recommends install "${whole[@]}" | awk '$1 == "Inst" { print $2 }')
  # shellcheck disable=SC2086
  [ -n "$needed" ] && unpack "$1" $needed "${alone[@]}"
}

# fetch PACKAGE...: unpacks sid's packages into CACHE/root.
fetch() {
  say "fetching $* from Debian sid"
  with_sid unpack "$CACHE/root" "$@"
}

# fetch_with_dependencies FOLDER PACKAGE...: unpacks sid's packages and all that they need to run into FOLDER.
fetch_with_dependencies() {
  say "fetching ${*:2} and what they need from Debian sid"
  with_sid unpack_with_dependencies "$@"
}

LINKED_TOOLS="etcd etcdctl containerd containerd-shim-runc-v2 ctr kubectl busybox runc nft ip conntrack iptables"

# Finds or gets every tool and links it in BIN; asks for no version again while the links hold.
prepare_tools() {
  local tool path
  mkdir -p "$BIN" "$CACHE"
  for tool in $LINKED_TOOLS; do [ -x "$BIN/$tool" ] || break; done
  if [ -x "$BIN/$tool" ] && have /usr/lib/cni/bridge && have openssl && have curl && have cc; then return; fi
  install_host_packages
  local missing=() root=$CACHE/root/usr/bin etcd etcdctl containerd kubectl ctr shim busybox
  if ! { etcd=$(own etcd 3.5.13 --version) && etcdctl=$(outside etcdctl); }; then
    etcd=$root/etcd etcdctl=$root/etcdctl
    [ -x "$etcd" ] || missing+=(etcd-server)
    [ -x "$etcdctl" ] || missing+=(etcd-client)
  fi
  # shellcheck disable=SC2034 # ctr: by name, below
  if ! { containerd=$(own containerd 2.1.0 --version) && ctr=$(outside ctr) && shim=$(outside containerd-shim-runc-v2); }; then
    containerd=$root/containerd ctr=$root/ctr shim=$root/containerd-shim-runc-v2
    [ -x "$containerd" ] || missing+=(containerd)
  fi
  if ! kubectl=$(own kubectl 1.36.0 version --client); then
    kubectl=$root/kubectl
    [ -x "$kubectl" ] || missing+=(kubectl)
  fi
  # Unpacked, never installed: the package would replace a dynamic busybox that the host may need.
  busybox=$root/busybox
  if [ -f /usr/share/doc/busybox-static/copyright ]; then busybox=$(outside busybox); fi
  [ -x "$busybox" ] || missing+=(busybox-static)
  ((${#missing[@]} == 0)) || fetch "${missing[@]}"

  [ -x "$busybox" ] || busybox=$CACHE/root/bin/busybox
  for tool in etcd etcdctl containerd ctr kubectl busybox; do
    path=${!tool}
    [ -x "$path" ] || die "$path is missing although its package was unpacked"
    ln -sfn "$path" "$BIN/$tool"
  done
  ln -sfn "$shim" "$BIN/containerd-shim-runc-v2"
  for tool in runc nft ip conntrack iptables; do ln -sfn "$(outside "$tool")" "$BIN/$tool"; done
}
