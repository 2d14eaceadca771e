#!/usr/bin/env bash
# Asks a Socket.IO server on 127.0.0.1:3000 (main.rs beside this, or another) what decision 2 is about. Every request ends
# within seconds. Beside each answer stands what Node's server or the protocol's documents say.
set -euo pipefail

url="http://127.0.0.1:${PORT:-3000}/socket.io/?EIO=4&transport=polling"
ask() { curl -sS --max-time 8 "$@" || true; }
sid_of() { sed -E 's/.*"sid":"([^"]+)".*/\1/'; }
# A session that has joined the default namespace: its Engine.IO id and what CONNECT was answered with.
enter() {
    sid=$(ask "$url" | sid_of)
    ask -d 40 "$url&sid=$sid" >/dev/null
    connected=$(ask "$url&sid=$sid" | tr '\036' '\n' | grep ^40)
}
say() { printf '%s: %s\n' "$1" "$2"; }

sid=$(ask "$url" | sid_of)
took=$(ask -o /dev/null -w '%{time_total}' "$url&sid=$sid")
say "1. the first ping came after $took s" "due: one ping interval (3 s)"

enter
[ "$(sid_of <<<"$connected")" = "$sid" ] && same=equal || same=different
say "2. a socket's public id and the id of its session are $same" "required: different, for whoever knows the second owns the session"

enter
ask --max-time 0.05 "$url&sid=$sid" >/dev/null 2>&1
say "3. a poll after an aborted poll: $(ask -o /dev/null -w '%{http_code}' --max-time 4 "$url&sid=$sid")" "required: 400, the session has ended"

enter
ask -d '42["caf\u00e9",1]' "$url&sid=$sid" >/dev/null
say "4. after an event whose name is written with an escape, a post: $(ask -o /dev/null -w '%{http_code}' -d '42["x"]' "$url&sid=$sid")" "required: 200, it is ordinary JSON"

enter
ask -d '4299999999999999999999["message-with-ack",1]' "$url&sid=$sid" >/dev/null
say "5. after an acknowledgement id of 20 digits, a post: $(ask -o /dev/null -w '%{http_code}' -d '42["x"]' "$url&sid=$sid")" "required: 400, a bad packet closes the connection"

enter
ask -d '42["flood"]' "$url&sid=$sid" >/dev/null
sleep 1
say "6. of 1000 events for a client that does not read just then, it finds $(ask "$url&sid=$sid" | tr '\036' '\n' | grep -c '\["number"')" "the server's own output says what it was told"
