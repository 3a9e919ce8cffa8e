# Holdfast: an MQTT 5.0 broker.  Understood by GNU make and BSD make.
#
#   make run          build and start the broker, store in ./data
#   make deps test    install cmocka where it is missing, run every test
#   make conformance  every numbered statement, against this or any broker
#   make badpeer      that suite against brokers that answer nonsense
#   make mutants      that each of its tests can fail
#   make names        that each refusal names the right statement
#   make interop      the walkthrough on real clients (mosquitto, paho, npm)
#   make browser      the walkthrough on the status page, in Chromium
#   make crash        10 million disks that a crash may leave
#   make bites        that the test of those notices each missing sync
#   make model        random lives against a plain model (SEEDS=n LENGTH=n)
#   make killtest     200 rounds of kill -9 under load
#   make powercut     500 power cuts on a mounted image under load (root)
#   make loadtest     10,000 and 1,000,000 queued messages across a restart
#   make pageload     the status page of 100,000 sessions, and bad visitors
#   make memcheck     the walkthrough under valgrind
#   make lines refs   no function too long, no unknown statement id
#   make symbols      nothing outside POSIX.1-2008 is linked

CC = cc
CFLAGS = -O2 -g
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STD = -std=c99 -D_POSIX_C_SOURCE=200809L
CPPFLAGS = -Iinclude
LDFLAGS =
ARGS =

# Tests run with sanitizers where the compiler has them; SAN= turns them off.
SAN = `tests/sanflags $(CC)`
CMOCKA_CFLAGS = -I/usr/local/include -I/opt/homebrew/include
CMOCKA_LIBS = -L/usr/local/lib -L/opt/homebrew/lib -lcmocka

COMPILE = $(CC) $(STD) $(WARN) $(CPPFLAGS) $(CFLAGS)
COMPILE_TEST = $(CC) $(STD) $(WARN) $(CPPFLAGS) -Itests -g -O1 \
	-fno-omit-frame-pointer $(SAN)
LINK_TEST = $(COMPILE_TEST) $(CMOCKA_CFLAGS) -o $@

HEADERS = include/annotate.h include/audit.h include/buf.h \
	include/inspect.h include/mqtt.h include/mqtt_codes.h \
	include/session.h include/store.h

# A test links only the module it tests and what that module stands on.
TESTS = build/test_mqtt build/test_topic build/test_store build/test_recovery \
	build/test_session build/test_publish build/test_qos build/test_will \
	build/test_sys build/test_trace build/test_why build/test_marks \
	build/test_status build/test_page \
	build/test_tools build/test_annotate build/test_broker \
	build/test_audit build/test_inspect build/test_crash build/test_clean \
	build/test_fail build/test_damage build/test_index build/test_model

all: holdfast

holdfast: build/broker.o build/session.o build/store.o build/mqtt.o
	$(CC) $(CFLAGS) $(LDFLAGS) -o holdfast build/broker.o build/session.o \
		build/store.o build/mqtt.o

build/broker.o: broker.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ broker.c
build/session.o: session.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ session.c
build/store.o: store.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ store.c
build/mqtt.o: mqtt.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ mqtt.c

run: holdfast
	./holdfast -d data $(ARGS)

# ---- tests ---------------------------------------------------------------

deps:
	tests/deps $(CC)

test: $(TESTS) build/holdfast-test
	HOLDFAST=build/holdfast-test tests/run $(TESTS)

build/t-session.o: session.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ session.c
build/t-store.o: store.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ store.c
build/t-mqtt.o: mqtt.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ mqtt.c
build/t-notation.o: tests/notation.c tests/notation.h $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ tests/notation.c
build/t-referee.o: tests/referee.c tests/referee.h $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ tests/referee.c
build/t-bench.o: tests/bench.c tests/bench.h tests/notation.h tests/referee.h \
	$(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) $(CMOCKA_CFLAGS) -c -o $@ tests/bench.c
build/t-client.o: tests/client.c tests/client.h $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) $(CMOCKA_CFLAGS) -c -o $@ tests/client.c

build/holdfast-test: broker.c build/t-session.o build/t-store.o build/t-mqtt.o
	$(COMPILE_TEST) -o $@ broker.c build/t-session.o build/t-store.o \
		build/t-mqtt.o

build/test_mqtt: tests/test_mqtt.c build/t-mqtt.o
	$(LINK_TEST) tests/test_mqtt.c build/t-mqtt.o $(CMOCKA_LIBS)
build/test_topic: tests/test_topic.c build/t-mqtt.o
	$(LINK_TEST) tests/test_topic.c build/t-mqtt.o $(CMOCKA_LIBS)
build/test_store: tests/test_store.c tests/store_world.h build/t-store.o
	$(LINK_TEST) tests/test_store.c build/t-store.o $(CMOCKA_LIBS)
build/test_recovery: tests/test_recovery.c tests/store_world.h build/t-store.o
	$(LINK_TEST) tests/test_recovery.c build/t-store.o $(CMOCKA_LIBS)

TOOLS = build/t-notation.o build/t-referee.o build/t-mqtt.o
build/test_tools: tests/test_tools.c $(TOOLS)
	$(LINK_TEST) tests/test_tools.c $(TOOLS) $(CMOCKA_LIBS)

SERVER = build/t-bench.o build/t-notation.o build/t-referee.o \
	build/t-session.o build/t-store.o build/t-mqtt.o
build/test_session: tests/test_session.c $(SERVER)
	$(LINK_TEST) tests/test_session.c $(SERVER) $(CMOCKA_LIBS)
build/test_publish: tests/test_publish.c $(SERVER)
	$(LINK_TEST) tests/test_publish.c $(SERVER) $(CMOCKA_LIBS)
build/test_qos: tests/test_qos.c $(SERVER)
	$(LINK_TEST) tests/test_qos.c $(SERVER) $(CMOCKA_LIBS)
build/test_will: tests/test_will.c $(SERVER)
	$(LINK_TEST) tests/test_will.c $(SERVER) $(CMOCKA_LIBS)
build/test_sys: tests/test_sys.c $(SERVER)
	$(LINK_TEST) tests/test_sys.c $(SERVER) $(CMOCKA_LIBS)

build/test_inspect: tests/test_inspect.c $(SERVER)
	$(LINK_TEST) tests/test_inspect.c $(SERVER) $(CMOCKA_LIBS)

build/test_trace: tests/test_trace.c $(SERVER)
	$(LINK_TEST) tests/test_trace.c $(SERVER) $(CMOCKA_LIBS)
build/test_marks: tests/test_marks.c $(SERVER)
	$(LINK_TEST) tests/test_marks.c $(SERVER) $(CMOCKA_LIBS)

build/test_why: tests/test_why.c $(SERVER)
	$(LINK_TEST) tests/test_why.c $(SERVER) $(CMOCKA_LIBS)

build/test_model: tests/test_model.c tests/model.h $(SERVER)
	$(LINK_TEST) tests/test_model.c $(SERVER) $(CMOCKA_LIBS)

build/test_annotate: tests/test_annotate.c build/t-mqtt.o
	$(LINK_TEST) tests/test_annotate.c build/t-mqtt.o $(CMOCKA_LIBS)

CLIENT = build/t-client.o build/t-mqtt.o
build/test_broker: tests/test_broker.c $(CLIENT)
	$(LINK_TEST) tests/test_broker.c $(CLIENT) $(CMOCKA_LIBS)

build/test_status: tests/test_status.c $(CLIENT)
	$(LINK_TEST) tests/test_status.c $(CLIENT) $(CMOCKA_LIBS)

build/test_page: tests/test_page.c $(CLIENT)
	$(LINK_TEST) tests/test_page.c $(CLIENT) $(CMOCKA_LIBS)

build/test_audit: tests/test_audit.c build/t-client.o $(SERVER)
	$(LINK_TEST) tests/test_audit.c build/t-client.o $(SERVER) $(CMOCKA_LIBS)

# Crash states: a server on a disk in memory.
K = tests/crash
CRASH = $K/test_crash.c $K/verdict.c $K/story.c $K/world.c $K/states.c \
	$K/disk.c
CRASH_HEADERS = $K/verdict.h $K/story.h $K/world.h $K/states.h $K/disk.h
build/test_crash: $(CRASH) $(CRASH_HEADERS) build/t-notation.o \
		build/t-session.o build/t-store.o build/t-mqtt.o
	$(LINK_TEST) -I$K $(CRASH) build/t-notation.o build/t-session.o \
		build/t-store.o build/t-mqtt.o $(CMOCKA_LIBS)

CLEAN = $K/test_clean.c $K/world.c $K/states.c $K/disk.c
build/test_clean: $(CLEAN) $K/world.h $K/states.h $K/disk.h \
		build/t-notation.o build/t-session.o build/t-store.o \
		build/t-mqtt.o
	$(LINK_TEST) -I$K $(CLEAN) build/t-notation.o build/t-session.o \
		build/t-store.o build/t-mqtt.o $(CMOCKA_LIBS)

# Failing calls and damage.  That memory fails is arranged by other names for
# realloc() and _exit(), which test_fail.c defines.
SCENE = $K/scene.c $K/world.c $K/disk.c
SCENE_HEADERS = $K/scene.h $K/world.h $K/disk.h
NO_MEMORY = -Drealloc=fail_realloc -D_exit=fail_exit
build/f-session.o: session.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) $(NO_MEMORY) -c -o $@ session.c
build/f-store.o: store.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) $(NO_MEMORY) -c -o $@ store.c
build/test_fail: $K/test_fail.c $(SCENE) $(SCENE_HEADERS) build/t-notation.o \
		build/f-session.o build/f-store.o build/t-mqtt.o
	$(LINK_TEST) -I$K $K/test_fail.c $(SCENE) build/t-notation.o \
		build/f-session.o build/f-store.o build/t-mqtt.o $(CMOCKA_LIBS)
build/test_damage: $K/test_damage.c $(SCENE) $(SCENE_HEADERS) \
		build/t-notation.o build/t-session.o build/t-store.o \
		build/t-mqtt.o
	$(LINK_TEST) -I$K $K/test_damage.c $(SCENE) build/t-notation.o \
		build/t-session.o build/t-store.o build/t-mqtt.o $(CMOCKA_LIBS)
build/test_index: $K/test_index.c $(SCENE) $(SCENE_HEADERS) \
		build/t-notation.o build/t-session.o build/t-store.o \
		build/t-mqtt.o
	$(LINK_TEST) -I$K $K/test_index.c $(SCENE) build/t-notation.o \
		build/t-session.o build/t-store.o build/t-mqtt.o $(CMOCKA_LIBS)

# ---- checks beyond make test ---------------------------------------------

ACCOUNT = tests/account.c tests/client.c
ACCOUNT_HEADERS = tests/account.h tests/client.h
build/killtest: tests/killtest.c $(ACCOUNT) $(ACCOUNT_HEADERS) build/mqtt.o
	$(COMPILE) -Itests -o $@ tests/killtest.c $(ACCOUNT) build/mqtt.o
build/powercut: $K/powercut.c $(ACCOUNT) $(ACCOUNT_HEADERS) build/mqtt.o
	$(COMPILE) -Itests -o $@ $K/powercut.c $(ACCOUNT) build/mqtt.o

CYCLES = 500
powercut: build/powercut holdfast
	$K/powercut.sh build/powercut $(CYCLES)

# STATES SEED JOBS; the seed is the first workload's.
STATES = 10000000
SEED = 1000
JOBS = 2
build/crash: $(CRASH) $(CRASH_HEADERS) tests/notation.c tests/notation.h \
		build/session.o build/store.o build/mqtt.o
	$(COMPILE) -Itests -I$K $(CMOCKA_CFLAGS) -o $@ $(CRASH) \
		tests/notation.c build/session.o build/store.o build/mqtt.o \
		$(CMOCKA_LIBS)
crash: build/crash
	build/crash $(STATES) $(SEED) $(JOBS)

bites:
	CC="$(CC)" $K/bites

SEEDS = 3000
LENGTH = 400
model: build/test_model
	build/test_model $(SEEDS) $(LENGTH)

ROUNDS = 200
killtest: build/killtest holdfast
	build/killtest $(ROUNDS)

build/loadtest: tests/loadtest.c tests/client.c tests/client.h build/mqtt.o \
		build/store.o
	$(COMPILE) -Itests -o $@ tests/loadtest.c tests/client.c build/mqtt.o \
		build/store.o

LOAD = 10000 1000 1000
loadtest: build/loadtest holdfast
	build/loadtest $(LOAD)

build/pageload: tests/pageload.c tests/client.c tests/client.h build/mqtt.o
	$(COMPILE) -Itests -o $@ tests/pageload.c tests/client.c build/mqtt.o

SESSIONS = 100000
pageload: build/pageload holdfast
	build/pageload $(SESSIONS)

# Some valgrinds cannot read the debug information of clang's default format.
build/holdfast-memcheck: broker.c session.c store.c mqtt.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -gdwarf-4 -o $@ broker.c session.c store.c mqtt.c
memcheck: build/loadtest build/holdfast-memcheck
	tests/memcheck build/loadtest build/holdfast-memcheck

# The conformance suite: BROKER=host:port, RESTART='command', ONLY='3.8.*'.
C = tests/conformance
SUITE = $C/main.c $C/peer.c $C/hear.c tests/notation.c tests/referee.c \
	tests/client.c \
	$C/s1_5_data.c $C/s2_1_header.c $C/s2_2_identifiers.c \
	$C/s3_1_connect.c $C/s3_1_3_payload.c $C/s3_2_connack.c \
	$C/s3_3_publish.c $C/s3_3_4_actions.c $C/s3_4_puback.c \
	$C/s3_5_pubrec.c $C/s3_6_pubrel.c $C/s3_7_pubcomp.c \
	$C/s3_8_subscribe.c $C/s3_9_suback.c $C/s3_10_unsubscribe.c \
	$C/s3_11_unsuback.c $C/s3_12_pingreq.c $C/s3_14_disconnect.c \
	$C/s3_15_auth.c $C/s4_1_state.c $C/s4_2_network.c $C/s4_3_qos.c \
	$C/s4_4_retry.c $C/s4_5_receipt.c $C/s4_6_order.c $C/s4_7_topics.c \
	$C/s4_8_shared.c $C/s4_9_flow.c $C/s4_12_auth.c $C/s4_13_errors.c \
	$C/s6_0_websocket.c
build/conformance: $(SUITE) $C/suite.h $C/run.h tests/notation.h \
		tests/referee.h tests/client.h build/mqtt.o
	$(COMPILE) -Itests -I$C $(CMOCKA_CFLAGS) -o $@ $(SUITE) build/mqtt.o \
		$(CMOCKA_LIBS)

conformance: build/conformance holdfast
	build/conformance --broker "$(BROKER)" --restart "$(RESTART)" \
		--only "$(ONLY)" --user "$(MQTT_USER)" --password "$(MQTT_PASSWORD)" \
		--results build/conformance-results

# It fails cleanly against brokers that answer nonsense, or nothing.
build/badpeer: $C/badpeer.c
	@mkdir -p build
	$(COMPILE) -o $@ $C/badpeer.c
badpeer: build/badpeer build/conformance
	$C/badpeer.sh

# Small faults in copies of the sources, each of which a test must notice.
# PART=3/10 takes a tenth of them.
mutants: build/conformance
	CC="$(CC)" tests/mutants/run $${PART:+-p "$$PART"}

# Each statement number in a string of mqtt.c and session.c, swapped for
# another one, which a test must notice.
names:
	CC="$(CC)" tests/mutants/why

interop: holdfast
	tests/interop/run.sh

browser: holdfast
	tests/browser/run

lines:
	tests/lines

refs:
	tests/refs

symbols: holdfast
	tests/symbols holdfast

clean:
	rm -rf build holdfast
