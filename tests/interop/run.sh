#!/bin/sh
# run.sh - the walkthrough on real clients, with kill -9 in between.
#
#     tests/interop/run.sh [holdfast]      from the top directory
#
# Clients: mosquitto_sub/mosquitto_pub, npm's `mqtt`, python3-paho-mqtt.  What
# is missing of them is fetched into build/interop (Debian's apt-get, npm).
# One line per case, `ok ...` or `FAILED ...`; the last line has the sums.
# HOLDFAST_WRAP may name a command that the broker is run under (valgrind).

top=$(pwd)
holdfast=${1:-./holdfast}
case $holdfast in /*) ;; *) holdfast=$top/$holdfast ;; esac
here=$top/tests/interop
work=$top/build/interop
root=$work/root
log=$work/log
python=/usr/bin/python3
broker=
port=
passed=0
failed=0
payload='{"temperature": 25.5, "humidity": 60}'
id=robustmq_client
topic=sensor/temperature

# ---- clients ---------------------------------------------------------------

# Unpacks Debian packages into build/interop/root.
fetch() {
    (cd "$work" && mkdir -p deb root && cd deb &&
        apt-get download "$@" && for deb in *.deb; do
            dpkg -x "$deb" "$root"
        done) >>"$log" 2>&1
}

clients() {
    mkdir -p "$work"
    : >"$log"
    PATH=$PATH:$root/usr/bin
    command -v mosquitto_sub >/dev/null ||
        fetch mosquitto-clients libmosquitto1 libcjson1
    for lib in "$root"/usr/lib/*/libmosquitto.so.1; do
        [ -e "$lib" ] && LD_LIBRARY_PATH=$(dirname "$lib") &&
            export LD_LIBRARY_PATH
    done
    PYTHONPATH=$root/usr/lib/python3/dist-packages
    export PYTHONPATH
    "$python" -c 'import paho.mqtt.client' 2>/dev/null ||
        fetch python3-paho-mqtt
    [ -d "$work/node_modules/mqtt" ] ||
        npm install --no-audit --no-fund --prefix "$work" mqtt >>"$log" 2>&1
    NODE_PATH=$work/node_modules
    export NODE_PATH
}

paho() {
    "$python" "$here/paho.py" "$@"
}

mqttjs() {
    node "$here/mqttjs.js" "$@"
}

# ---- the broker ------------------------------------------------------------

# Starts it with these options and waits for the ready line.  Its stdout is a
# named pipe, which stays open as descriptor 3.
start() {
    rm -f "$work/out"
    mkfifo "$work/out"
    ${HOLDFAST_WRAP:-} "$holdfast" "$@" >"$work/out" 2>>"$log" &
    broker=$!
    exec 3<"$work/out"
    if ! read -r ready <&3; then
        broker=
        return 1
    fi
    port=${ready#*port=}
    port=${port%% *}
}

# An empty store; options besides.
fresh() {
    rm -rf "$work/data"
    start -p 0 -s off -d "$work/data" "$@"
}

crash() {
    [ -n "$broker" ] || return 0
    kill -9 "$broker"
    wait "$broker" 2>/dev/null
    broker=
    exec 3<&-
}

restart() {
    crash
    start -p "$port" -s off -d "$work/data"
}

# What was published at QoS 0 may still be on its way when its publisher has
# ended; what is acknowledged after it shows that the broker has read it.
settle() {
    mosquitto_pub -p "$port" -V 5 -t settle -q 1 -m x
}

# ---- cases ------------------------------------------------------------------

# verdict NAME STATUS
verdict() {
    if [ "$2" -eq 0 ]; then
        echo "ok $1"
        passed=$((passed + 1))
    else
        echo "FAILED $1"
        failed=$((failed + 1))
    fi
    crash
}

# Reads the broker's trace up to a line with this word.
await() {
    while read -r line <&3; do
        case $line in *"$1"*) return 0 ;; esac
    done
    return 1
}

# As it stands in README.md: no options, port 1883, store ./data.
word_for_word() {
    rm -rf "$work/plain"
    mkdir -p "$work/plain"
    cd "$work/plain" || return 1
    start -v || return 1
    mosquitto_sub -V 5 -c -i robustmq_client -t sensor/temperature &
    child=$!
    await SUBACK
    kill -INT "$child"
    wait "$child"
    mosquitto_pub -V 5 -t sensor/temperature \
        -m '{"temperature": 25.5, "humidity": 60}'
    settle
    crash
    start || return 1
    got=$(mosquitto_sub -V 5 -c -i robustmq_client -t sensor/temperature \
        -C 1 -W 20)
    [ "$got" = "$payload" ]
}

# mosquitto QOS
mosquitto() {
    fresh || return 1
    mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" -E &&
        mosquitto_pub -p "$port" -V 5 -t "$topic" -q "$1" -m "$payload" &&
        settle && restart || return 1
    got=$(mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" \
        -C 1 -W 20)
    [ "$got" = "$payload" ] || return 1
    # It came once: what comes next is what is published next.
    mosquitto_pub -p "$port" -V 5 -t "$topic" -q "$1" -m next
    got=$(mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" \
        -C 1 -W 20)
    [ "$got" = next ]
}

# mosquitto_many QOS COUNT
mosquitto_many() {
    fresh || return 1
    i=0
    while [ "$i" -lt "$2" ]; do
        i=$((i + 1))
        echo "number $i"
    done >"$work/sent"
    mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" -E &&
        mosquitto_pub -p "$port" -V 5 -t "$topic" -q "$1" -l <"$work/sent" &&
        settle && restart || return 1
    mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" \
        -C "$2" -W 60 >"$work/got"
    cmp "$work/sent" "$work/got"
}

# mosquitto_properties QOS
mosquitto_properties() {
    fresh || return 1
    mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" -E &&
        mosquitto_pub -p "$port" -V 5 -t "$topic" -q "$1" -m "$payload" \
            -D publish content-type application/json \
            -D publish response-topic answer/1 \
            -D publish correlation-data same \
            -D publish payload-format-indicator 1 \
            -D publish user-property name 'first one' \
            -D publish user-property name second &&
        settle && restart || return 1
    got=$(mosquitto_sub -p "$port" -V 5 -c -i "$id" -t "$topic" -q "$1" \
        -C 1 -W 20 -F '%F|%C|%R|%D|%P|%p')
    expected="1|application/json|answer/1|same|name:first one name:second"
    [ "$got" = "$expected|$payload" ]
}

# mosquitto_retained: kept over two crashes, then removed for good.
mosquitto_retained() {
    fresh || return 1
    mosquitto_pub -p "$port" -V 5 -t "$topic" -r -q 1 -m "$payload"
    restart && restart || return 1
    got=$(mosquitto_sub -p "$port" -V 5 -t "$topic" -C 1 -W 20)
    [ "$got" = "$payload" ] || return 1
    mosquitto_pub -p "$port" -V 5 -t "$topic" -r -q 1 -n
    mosquitto_pub -p "$port" -V 5 -t other -r -q 1 -m other
    restart || return 1
    got=$(mosquitto_sub -p "$port" -V 5 -t '#' -C 1 -W 20)
    [ "$got" = other ]
}

# mosquitto_will: its delay is running when the broker is killed.  What comes
# before it was published after the restart, so the will was still to come.
mosquitto_will() {
    fresh -v || return 1
    mosquitto_sub -p "$port" -V 5 -c -i watcher -t will -q 1 -E || return 1
    mosquitto_sub -p "$port" -V 5 -c -i mortal -t "$topic" --will-topic will \
        --will-payload gone --will-qos 1 -D will will-delay-interval 4 &
    child=$!
    await '"mortal" SUBACK'
    kill -9 "$child"
    wait "$child" 2>/dev/null
    settle && restart || return 1
    mosquitto_pub -p "$port" -V 5 -t will -q 1 -m before
    got=$(mosquitto_sub -p "$port" -V 5 -c -i watcher -t will -q 1 \
        -C 2 -W 20)
    [ "$got" = "before
gone" ]
}

# mosquitto_expiry: while the broker is dead one session runs out, the other
# does not.
mosquitto_expiry() {
    fresh || return 1
    for expiry in 2 600; do
        mosquitto_sub -p "$port" -V 5 -c -i "for-$expiry" -x "$expiry" \
            -t "$topic" -q 1 -E || return 1
    done
    mosquitto_pub -p "$port" -V 5 -t "$topic" -q 1 -m "$payload"
    crash
    sleep 3
    restart || return 1
    [ "$(paho present "$port" for-2 600)" = 0 ] || return 1
    mosquitto_sub -p "$port" -V 5 -c -i for-2 -x 600 -t "$topic" -q 1 -E
    mosquitto_pub -p "$port" -V 5 -t "$topic" -q 1 -m next
    got=$(mosquitto_sub -p "$port" -V 5 -c -i for-2 -x 600 -t "$topic" -q 1 \
        -C 1 -W 20)
    [ "$got" = next ] || return 1
    got=$(mosquitto_sub -p "$port" -V 5 -c -i for-600 -x 600 -t "$topic" -q 1 \
        -C 2 -W 20)
    [ "$got" = "$payload
next" ]
}

# An older client prints what is wrong.
old_version() {
    fresh || return 1
    got=$(mosquitto_pub -p "$port" -V mqttv311 -t "$topic" -m x 2>&1)
    case $got in
    *"nacceptable protocol version"*) return 0 ;;
    *) echo "$got" && return 1 ;;
    esac
}

# walkthrough CLIENT QOS EXPIRY COUNT
walkthrough() {
    fresh &&
        "$1" subscribe "$port" "$id" "$2" "$3" &&
        restart &&
        "$1" publish "$port" "$2" "$4" &&
        settle && restart &&
        "$1" receive "$port" "$id" "$2" "$3" "$4" &&
        restart &&
        "$1" receive "$port" "$id" "$2" "$3" 0
}

# publish_through CLIENT COUNT: killed four times while a client publishes at
# QoS 2; it reconnects by itself and resends.
publish_through() {
    fresh && "$1" subscribe "$port" "$id" 2 600 || return 1
    "$1" publish "$port" 2 "$2" &
    child=$!
    for i in 1 2 3 4; do
        sleep 0.$i
        restart || return 1
    done
    wait "$child" && restart && "$1" receive "$port" "$id" 2 600 "$2"
}

all_cases() {
    (exec 3<&- && mosquitto_pub -p 1883 -V 5 -t x -m x) >/dev/null 2>&1 &&
        echo "skipped word for word: port 1883 is taken" || {
        word_for_word
        verdict "mosquitto, word for word on port 1883" $?
        cd "$top" || exit 1
    }
    for qos in 0 1 2; do
        mosquitto $qos
        verdict "mosquitto, QoS $qos" $?
        mosquitto_properties $qos
        verdict "mosquitto, QoS $qos, properties" $?
        mosquitto_many $qos 1000
        verdict "mosquitto, QoS $qos, 1000 messages in order" $?
    done
    mosquitto_retained
    verdict "mosquitto, retained messages" $?
    mosquitto_will
    verdict "mosquitto, a will whose delay runs across kill -9" $?
    mosquitto_expiry
    verdict "mosquitto, session expiry while the broker is dead" $?
    old_version
    verdict "mosquitto, MQTT 3.1.1 is told so" $?
    for client in mqttjs paho; do
        for expiry in - 3600; do
            for qos in 0 1 2; do
                walkthrough $client $qos $expiry 1
                verdict "$client, QoS $qos, session expiry $expiry" $?
            done
        done
        for qos in 0 1 2; do
            walkthrough $client $qos - 1000
            verdict "$client, QoS $qos, 1000 messages, properties" $?
        done
        publish_through $client 2000
        verdict "$client, QoS 2, killed while publishing" $?
    done
}

trap 'crash; exit 1' INT TERM
clients
all_cases
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
