# shellcheck shell=bash
# What the scripts that start a real object store have in common. They set `option[...]` to what may be given as KEY=VALUE and
# then call `begin DIR PORT [KEY=VALUE]...`. Each writes DIR/env, prints it, and leaves its processes' ids in DIR/pids.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Looked for by the caller: another try with another port may help.
TAKEN=75

die() { printf 'stores: %s\n' "$*" >&2; exit 1; }
hex() { od -An -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }

begin() { # begin DIR PORT [KEY=VALUE]...: takes the arguments apart, makes DIR
  [ $# -ge 2 ] || die "usage: ${0##*/} DIR PORT [KEY=VALUE]...; keys: owner ${!option[*]}"
  option[owner]=
  local word
  for word in "${@:3}"; do
    [ -n "${option[${word%%=*}]+known}" ] || die "unknown: $word; keys: ${!option[*]}"
    option[${word%%=*}]=${word#*=}
  done
  mkdir -p "$1"/{etc,log,run}
  DIR=$(cd "$1" && pwd) PORT=$2
  [ ! -e "$DIR/pids" ] || die "$DIR is in use; scripts/stores/stop $DIR ends what runs there"
  umask 077
  : >"$DIR/pids"
  trap 'status=$?; [ "$status" = 0 ] || "$here/stop" "$DIR"' EXIT
}

free() { # free PORT...: ends the script if somebody listens there
  local port
  for port in "$@"; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      printf 'stores: port %s is taken\n' "$port" >&2
      exit "$TAKEN"
    fi
  done
}

render() { # render NAME [INTO]: templates/NAME with each @KEY@ replaced by the variable KEY, as DIR/etc/INTO
  local text key
  text=$(<"$here/templates/$1")
  for key in $(grep -o '@[A-Z_]*@' "$here/templates/$1" | sort -u | tr -d @); do text=${text//@$key@/${!key}}; done
  printf '%s\n' "$text" >"$DIR/etc/${2:-$1}"
}

go() { # go NAME COMMAND...: in the background and in a session of its own
  setsid "${@:2}" >>"$DIR/log/$1.log" 2>&1 </dev/null &
  printf '%s %s\n' "$!" "$1" >>"$DIR/pids"
}

await() { # await COMMAND...: until it succeeds; the store's processes must live on meanwhile
  local end=$((SECONDS + 60)) pid name ready=
  while [ -z "$ready" ]; do
    if "$@"; then ready=1; else sleep 0.1; fi
    while read -r pid name; do
      [ -d "/proc/$pid" ] && continue
      printf 'stores: %s ended at its start: %s\n' "$name" "$(tail -n 5 "$DIR/log/$name.log")" >&2
      exit "$TAKEN"
    done <"$DIR/pids"
    [ "$SECONDS" -lt "$end" ] || die "not ready after 60 s; the logs are in $DIR/log"
  done
}

finish() { # finish: takes what is to be printed from stdin
  tee "$DIR/env"
  # An owner that is killed leaves nothing behind.
  if [ -n "${option[owner]}" ]; then
    # Without the keys that stand in this environment.
    env -i PATH="$PATH" ${COFFER_TEST_KEEP+COFFER_TEST_KEEP=1} setsid "$here/stop" "$DIR" --after "${option[owner]}" >/dev/null 2>&1 </dev/null &
  fi
}
