# Holdfast: an MQTT 5.0 broker.  Understood by GNU make and BSD make.
#
#   make deps test    install cmocka where it is missing, run every test
#   make lines refs   no function too long, no unknown statement id

CC = cc
CFLAGS = -O2 -g
WARN = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
STD = -std=c99 -D_POSIX_C_SOURCE=200809L
CPPFLAGS = -Iinclude
LDFLAGS =

# Tests run with sanitizers where the compiler has them; SAN= turns them off.
SAN = `tests/sanflags $(CC)`
CMOCKA_CFLAGS = -I/usr/local/include -I/opt/homebrew/include
CMOCKA_LIBS = -L/usr/local/lib -L/opt/homebrew/lib -lcmocka

COMPILE = $(CC) $(STD) $(WARN) $(CPPFLAGS) $(CFLAGS)
COMPILE_TEST = $(CC) $(STD) $(WARN) $(CPPFLAGS) -Itests -g -O1 \
	-fno-omit-frame-pointer $(SAN)
LINK_TEST = $(COMPILE_TEST) $(CMOCKA_CFLAGS) -o $@

HEADERS = include/buf.h include/mqtt.h include/mqtt_codes.h include/session.h include/store.h

# A test links only the module it tests and what that module stands on.
TESTS = build/test_mqtt build/test_topic build/test_store build/test_recovery build/test_session build/test_publish build/test_qos build/test_will

all: build/session.o build/store.o build/mqtt.o

build/session.o: session.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ session.c
build/store.o: store.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ store.c
build/mqtt.o: mqtt.c $(HEADERS)
	@mkdir -p build
	$(COMPILE) -c -o $@ mqtt.c

# ---- tests ---------------------------------------------------------------

deps:
	tests/deps $(CC)

test: $(TESTS)
	tests/run $(TESTS)

build/t-session.o: session.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ session.c
build/t-store.o: store.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ store.c
build/t-mqtt.o: mqtt.c $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) -c -o $@ mqtt.c
build/t-bench.o: tests/bench.c tests/bench.h $(HEADERS)
	@mkdir -p build
	$(COMPILE_TEST) $(CMOCKA_CFLAGS) -c -o $@ tests/bench.c

build/test_mqtt: tests/test_mqtt.c build/t-mqtt.o
	$(LINK_TEST) tests/test_mqtt.c build/t-mqtt.o $(CMOCKA_LIBS)
build/test_topic: tests/test_topic.c build/t-mqtt.o
	$(LINK_TEST) tests/test_topic.c build/t-mqtt.o $(CMOCKA_LIBS)
build/test_store: tests/test_store.c tests/store_world.h build/t-store.o
	$(LINK_TEST) tests/test_store.c build/t-store.o $(CMOCKA_LIBS)
build/test_recovery: tests/test_recovery.c tests/store_world.h build/t-store.o
	$(LINK_TEST) tests/test_recovery.c build/t-store.o $(CMOCKA_LIBS)

SERVER = build/t-bench.o build/t-session.o build/t-store.o build/t-mqtt.o
build/test_session: tests/test_session.c $(SERVER)
	$(LINK_TEST) tests/test_session.c $(SERVER) $(CMOCKA_LIBS)
build/test_publish: tests/test_publish.c $(SERVER)
	$(LINK_TEST) tests/test_publish.c $(SERVER) $(CMOCKA_LIBS)
build/test_qos: tests/test_qos.c $(SERVER)
	$(LINK_TEST) tests/test_qos.c $(SERVER) $(CMOCKA_LIBS)
build/test_will: tests/test_will.c $(SERVER)
	$(LINK_TEST) tests/test_will.c $(SERVER) $(CMOCKA_LIBS)

# ---- checks beyond make test ---------------------------------------------

lines:
	tests/lines

refs:
	tests/refs

clean:
	rm -rf build holdfast
