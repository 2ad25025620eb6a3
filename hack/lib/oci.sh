# Making OCI images from folders: one image layout (https://github.com/opencontainers/image-spec) in the folder $layout.
# Sourced. The layers are plain tars without times and owners, so equal contents have equal digests.
#
#   layout_begin FOLDER; a=$(layer ROOT); b=$(layer OTHER); image NAME CONFIG "$a" "$b"; …; layout_end
#
# Beside the standard's files the folder has "names": a line "NAME DIGEST [CREDENTIALS]" per image, for the registry.
# shellcheck shell=bash

# layout_begin FOLDER: a new layout in FOLDER, which must not exist.
layout_begin() {
  layout=$1 manifests=
  mkdir -p "$layout/blobs/sha256"
  : >"$layout/names"
  printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  case $(uname -m) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) die "no images for $(uname -m)" ;;
  esac
}

# blob FILE: moves it to its place by digest; prints "DIGEST SIZE", last, because who reads that writes FILE anew.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  echo "sha256:$digest $size"
}

# layer FOLDER: prints "DIGEST SIZE". Permission bits are kept, everything belongs to root.
layer() {
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$layout/layer" .
  blob "$layout/layer"
}

# image [--pull-only] [--credentials USER:PASSWORD] NAME CONFIG LAYER...: CONFIG is the inside of the image's "config"
# object. A pull-only image is not imported into nodes; one with credentials is given by the registry only to who shows
# them. The label makes images of equal content different ones.
image() {
  local imported=1 credentials= name config part config_digest config_size digest size layers= ids=
  while [[ $1 == --* ]]; do
    imported=
    if [ "$1" = --credentials ]; then
      credentials=$(printf %s "$2" | base64 -w0)
      shift
    fi
    shift
  done
  name=$1 config=$2
  for part in "${@:3}"; do
    ids+=",\"${part% *}\""
    layers+=",{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"${part% *}\",\"size\":${part#* }}"
  done
  printf '{"architecture":"%s","os":"linux","config":{"Labels":{"image":"%s"},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],%s},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$architecture" "$name" "$config" "${ids#,}" >"$layout/config"
  read -r config_digest config_size < <(blob "$layout/config")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[%s]}' \
    "$config_digest" "$config_size" "${layers#,}" >"$layout/manifest"
  read -r digest size < <(blob "$layout/manifest")
  echo "$name $digest${credentials:+ $credentials}" >>"$layout/names"
  [ -n "$imported" ] || return 0
  manifests+=$(printf ',{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s,"annotations":{"io.containerd.image.name":"%s"},"platform":{"os":"linux","architecture":"%s"}}' \
    "$digest" "$size" "$name" "$architecture")
}

layout_end() {
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "${manifests#,}" >"$layout/index.json"
}
