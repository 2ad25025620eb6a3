# Progress, errors, locking and waiting. Sourced.
# shellcheck shell=bash

STARTED=${EPOCHREALTIME/[.,]/}

# seconds since the script began, as 1.23
elapsed() {
  local us=$((${EPOCHREALTIME/[.,]/} - STARTED))
  printf '%d.%02d' $((us / 1000000)) $((us / 10000 % 100))
}

say() { printf '%6ss  %s\n' "$(elapsed)" "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "${0##*/} must run as root: it makes network namespaces and mounts"; }

# One hack/ script at a time. Long-running programs must not inherit the descriptor: start them with 9>&-.
take_lock() {
  mkdir -p "$STATE"
  exec 9>"$STATE/lock"
  flock -n 9 || {
    say "waiting for another hack/ script to finish"
    flock 9
  }
}

# wait_until SECONDS WHAT LOG_NAMES COMMAND...: polls COMMAND; on timeout says what was awaited and shows the ends of the logs.
# STEERSMAN_PATIENCE, a whole number, multiplies the limit: for a machine that is busy with other things.
wait_until() {
  local limit=$(($1 * ${STEERSMAN_PATIENCE:-1})) what=$2 logs=$3 deadline name
  shift 3
  deadline=$((${EPOCHREALTIME/[.,]/} + limit * 1000000))
  until "$@"; do
    if ((${EPOCHREALTIME/[.,]/} > deadline)); then
      for name in $logs; do
        # shellcheck disable=SC2153 # from config.sh
        [ -s "$LOGS/$name.log" ] || continue
        printf -- '--- last lines of %s\n' "$LOGS/$name.log" >&2
        tail -n 8 "$LOGS/$name.log" >&2
      done
      die "$what: not within $limit s"
    fi
    sleep 0.03
  done
}
