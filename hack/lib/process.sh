# Starting, finding and ending the cluster's long-running programs. Sourced.
#
# A program NAME has RUN/NAME.loop (the supervising loop, leader of a process group that holds the program too),
# RUN/NAME.pid (the program) and RUN/NAME.cmd (what was started, to see whether it should be something else now).
# A process id read from a file is trusted only if that process still is what the file says.
# shellcheck shell=bash

# The loop's process id, if it is alive.
loop_pid() {
  local pid cmd
  [ -s "$RUN/$1.loop" ] && read -r pid <"$RUN/$1.loop" || return 1
  { cmd=$(tr '\0' ' ' <"/proc/$pid/cmdline"); } 2>/dev/null || return 1
  [[ $cmd == *"/supervise $1 $RUN "* ]] && echo "$pid"
}

# The program's process id, if it is alive.
program_pid() {
  local pid loop stat
  loop=$(loop_pid "$1") || return 1
  { read -r pid <"$RUN/$1.pid" && read -r stat <"/proc/$pid/stat"; } 2>/dev/null || return 1
  # after the name in parentheses: state, parent, process group
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  [ "$3" = "$loop" ] && echo "$pid"
}

# Whether the program runs from the file that is there now: a rebuilt program's old file is "(deleted)".
runs_current_file() {
  local exe
  exe=$(readlink "/proc/$1/exe") && [[ $exe != *' (deleted)' ]]
}

# The kubeconfig that a program reads, if it reads any.
kubeconfig_of() {
  case $1 in
    *.kubelet) echo "$CONF/${1%.kubelet}.kubeconfig" ;;
    *) echo "$CONF/${1##*.}.kubeconfig" ;;
  esac
}

# Whether it is still what the program was started with.
same_kubeconfig() { ! [ "$(kubeconfig_of "$1")" -nt "$RUN/$1.cmd" ]; }

# start NAME [in HOLDER] COMMAND...: makes sure that NAME runs with this command; HOLDER is a process whose network, mount
# and UTS namespaces it shall live in. Leaves a running program alone unless its command, its file or its kubeconfig has
# changed.
# Leaves the file STATE/changed if it did anything.
start() {
  local name=$1 prefix=() pid wanted
  shift
  if [ "$1" = in ]; then
    prefix=(nsenter -t "$2" --net --mount --uts --)
    shift 2
  fi
  wanted=$(readlink -f "$1" || echo "$1")$(printf ' %q' "$@")
  if loop_pid "$name" >/dev/null; then
    if [ "$wanted" = "$(<"$RUN/$name.cmd")" ] && same_kubeconfig "$name" && { ! pid=$(program_pid "$name") || runs_current_file "$pid"; }; then return; fi
    stop "$name"
  fi
  rm -f "$RUN/$name.pid"
  echo "$wanted" >"$RUN/$name.cmd"
  # A clean environment: a proxy setting of the user's shell, for one, would reroute the components' requests.
  setsid env -i PATH="$PATH" HOME=/root RUST_BACKTRACE=1 ${RUST_LOG:+"RUST_LOG=$RUST_LOG"} \
    "${prefix[@]}" "$HACK/lib/supervise" "$name" "$RUN" "$LOGS/$name.log" "$@" 9>&- </dev/null >/dev/null 2>&1 &
  touch "$STATE/changed"
}

# stop NAME: asks the program to end, and waits at most ten seconds before it is killed.
stop() {
  local name=$1 loop deadline=$((SECONDS + 10))
  if loop=$(loop_pid "$name"); then
    kill -TERM "$loop" 2>/dev/null || true
    while loop_pid "$name" >/dev/null && ((SECONDS < deadline)); do sleep 0.02; done
    if loop_pid "$name" >/dev/null; then kill -KILL -- "-$loop" 2>/dev/null || true; fi
  fi
  rm -f "$RUN/$name".{pid,loop,cmd}
}

# kill_now NAME...: ends loops and programs at once (hack/down: the cluster's data is thrown away anyhow).
kill_now() {
  local name loop
  for name in "$@"; do
    if loop=$(loop_pid "$name"); then kill -KILL -- "-$loop" 2>/dev/null || true; fi
    rm -f "$RUN/$name".{pid,loop,cmd}
  done
}

# Every program that has a loop file, one name per line.
started_programs() {
  local file
  for file in "$RUN"/*.loop; do
    [ -e "$file" ] || continue
    file=${file##*/}
    echo "${file%.loop}"
  done
}
