/*
 * session.c - the behaviour of an MQTT 5.0 server: sessions, subscriptions,
 * routing, queues, QoS exchanges, retained messages, wills, expiry.
 *
 * Bytes and the time come in, records go to the store, replies go into each
 * link's output; nothing here touches a socket, a file or a clock.
 *
 * Sections
 *     1  structures           11  window, sending      20  packets from clients
 *     2  tables, maps, slots  12  retained messages    21  input
 *     3  timers               13  routing              22  turn and timers
 *     4  log and trace        14  $SYS topics          23  replay: fields
 *     5  via sets             15  shared deliveries    24  replay: records
 *     6  topic tree           16  wills                25  replay: the whole
 *     7  subscriptions        17  sessions             26  public functions
 *     8  records              18  marks                27  audit
 *     9  deliveries           19  connecting           28  inspect
 *    10  messages
 *
 * Who points at whom
 *
 *     server --- sessions by client id --- session --- link (0 or 1)
 *        |                                  |  |  \
 *        |                                  |  |   subscriptions
 *        |                                  |  |        |
 *        |                                  |  |    topic tree --- retained
 *        |                                  |  |                      |
 *        |                     queue (ring) +  + in flight (by id)    |
 *        |                           \          /                     |
 *        +--- messages by slot --- message { receiver, receiver, .. } +
 *
 * A message is one shared entry; a delivery is 16 bytes in the message's
 * receiver array and 8 bytes in the session's queue.  The body stays in the
 * ledger, or in memory when nobody durable wants it.
 *
 * A delivery's life (4.3).  `place` is its number within its session: the
 * pair (session, place) names it in the ledger, and orders it.
 *
 *                  queue_send             PUBACK, PUBREC >= 0x80
 *      QUEUED -------------------> SENT ------------------------> (done)
 *        |  `-- QoS 0: done          | PUBREC < 0x80
 *        | message expires           v           PUBCOMP
 *        v                        RELEASED ---------------------> (done)
 *      GONE (until its queue entry is reached)
 *
 * Records in the ledger (store.c gives their syntax).  A record of an object
 * holds its whole state; the others are notes, in the order of events.
 *
 *     counters  next-session next-message                      object
 *     session   id client expiry [offline] rx.. [will-*]       object, body
 *                                                      is the Will Message
 *     sub       session filter qos nl rap rh id                object
 *     message   seq at expires qos retain from topic via to..  object, body
 *                                                      is the PUBLISH packet
 *     unsub     session filter        the subscription is gone
 *     end       session               the session is gone, and all it had
 *     rx / rel  session id            a QoS 2 id received / released
 *     deliver   seq via to            one more receiver of a message
 *     send      s n id                delivery n of session s has packet id
 *     rec       s n                   its PUBREC came: PUBREL from now on
 *     done      s n                   it is finished, or was discarded
 *     clear     topic                 the topic has no retained message
 *
 *     to=<session>:<place>:<qos>:<retain>:<q|s|r>:<packet id>
 *     via=<id>,<id>;<shared filter>   how the receivers after it subscribed
 *
 * Cleaning moves the oldest records to the end of the log.  So a note may
 * come before the record of what it is about: it is passed over, for that
 * record holds the whole state.  And a `sub` or a message may come before the
 * record of its session: the session is made by its number, and gone at the
 * end if its record never came.
 */
#include "session.h"

#include <assert.h>
#include <stdarg.h>

#include "annotate.h"
#include "audit.h"
#include "inspect.h"
#include "mqtt.h"

/* ======================================================================== */
/* 1  structures                                                            */
/* ======================================================================== */

#define OWNER(type, member, at)                                                \
    ((type *)(void *)((char *)(at)-offsetof(type, member)))

#define NEVER UINT64_MAX
#define ALIAS_TOPIC_MAX 256 /* bytes of a topic that we keep an alias for */
#define CONNECT_MAX (512 * 1024) /* bytes of a CONNECT, from a stranger */
#define LOG_HIGH (256 * 1024) /* bytes of log in one second after which lines
                                are only counted */
#define TRACE_HIGH (512 * 1024) /* the same of the trace, in one turn */
#define QOS0_TURNS 16 /* output_high this many times: QoS 0 cannot wait, so it
                         has room for what many send one client in a turn */
#define WORK_LINK 20000   /* what one link may make us do in a turn */
#define WORK_PACKET 500000 /* what one SUBSCRIBE may make us do */
#define PENDING_MAX (4 * 1024 * 1024) /* bytes of records for one commit */
#define EXPIRY_NEVER UINT32_MAX /* 3.1.2.11.2: the session does not expire */
#define NO_BYTE SIZE_MAX /* offset of an error that no single byte makes */
#define WHY_MAX 300      /* bytes of a Reason String, its NUL included */
#define PACKET_SMALL 256 /* bytes; a Reason String may not fit in fewer */

/* Bytes owned by the structure that holds them. */
struct text {
    uint8_t *p; /* NULL = none */
    size_t n;   /* bytes */
};

/* An entry of a hash table, embedded in what it finds. */
struct node {
    struct node *next; /* in the same bucket */
    uint64_t hash;
};

struct table {
    struct node **bucket;
    size_t size;  /* buckets: 0 or a power of two */
    size_t count; /* entries */
};

/* Numbers to numbers, for the replay only. */
struct pair {
    uint64_t key; /* 0 = free place; keys are never 0 */
    uint64_t value;
};

struct map {
    struct pair *at;
    size_t size;  /* places: 0 or a power of two */
    size_t count; /* places taken */
};

/* Pointers by small numbers from 1 on, given back and used again. */
struct slots {
    void **at;
    uint32_t n, cap;
    uint32_t *spare; /* numbers given back */
    uint32_t spare_n, spare_cap;
};

/* A list of pointers that keeps its memory between uses. */
struct list {
    void **at;
    size_t n, cap;
};

enum timer_kind { TIMER_LINK, TIMER_EXPIRY, TIMER_WILL, TIMER_MESSAGE };

/* A point in time, embedded in what it wakes. */
struct timer {
    uint64_t at;   /* ms since 1970 */
    uint32_t slot; /* place in the heap from 1 on; 0 = not set */
    uint8_t kind;  /* an enum timer_kind: what it is embedded in */
};

/* Timers, the earliest first. */
struct heap {
    struct timer **at;
    uint32_t n, cap;
};

enum object_kind {
    OBJECT_COUNTERS,
    OBJECT_SESSION,
    OBJECT_SUB,
    OBJECT_MESSAGE
};

/* One level of the topic tree.  Filters and the topics of retained messages
 * share the tree; the levels "+" and "#" are nodes like others. */
struct topic {
    struct node node;     /* by parent and level */
    struct topic *parent; /* NULL for the root */
    struct topic *child;  /* the first of the children */
    struct topic *next, *prev; /* brothers */
    struct sub *subs;          /* subscriptions whose filter ends here */
    struct share *shares;      /* shared ones, by ShareName */
    struct message *retained;  /* of the topic that ends here */
    size_t kept;               /* retained messages here and below */
    size_t n;                  /* bytes of level */
    uint8_t level[];
};

/* How deliveries came about: the Subscription Identifiers to name in them,
 * and the shared filter if it was one.  Interned: equal sets are one. */
struct via {
    struct node node;
    uint32_t slot;   /* in server.vias */
    uint32_t refs;   /* deliveries that name it */
    uint32_t count;  /* of ids */
    uint32_t share_n; /* bytes of share */
    uint8_t *share;  /* the whole shared filter; behind ids */
    uint32_t ids[];
};

/* The members of one Shared Subscription (4.8.2). */
struct share {
    struct node node;    /* by topic node and name */
    struct share *next, *prev; /* others on the same topic node */
    struct topic *topic; /* where the filter ends */
    struct sub *subs[2]; /* members: those away, those connected */
    struct sub *turn[2]; /* who of them is asked first; NULL = the first */
    size_t n;            /* bytes of name */
    uint8_t name[];      /* ShareName */
};

/* One subscription of one session (3.8). */
struct sub {
    struct store_object object; /* OBJECT_SUB */
    struct node node;           /* by session and filter */
    struct session *session;
    struct topic *topic;      /* where the filter ends */
    struct share *share;      /* NULL = not shared */
    struct sub *next, *prev;  /* on the same topic or in the same share */
    struct sub *mate, *mate_prev; /* of the same session */
    uint32_t id;              /* Subscription Identifier, 0 = none */
    uint8_t connected;        /* shared: which list of the share it is in */
    uint8_t qos;              /* granted */
    uint8_t no_local, retain_as_published, retain_handling;
    size_t n; /* bytes of filter */
    uint8_t filter[]; /* whole, with $share/ */
};

enum stage { STAGE_FREE, STAGE_QUEUED, STAGE_SENT, STAGE_RELEASED, STAGE_GONE };

/* One delivery of a message to a session: 16 bytes, in the message. */
struct receiver {
    uint32_t session; /* slot; of a free one: 0 */
    uint32_t place;   /* number within the session; of a free one: next free */
    uint32_t via;     /* slot of its struct via, 0 = none */
    uint16_t packet_id;
    uint8_t stage;           /* an enum stage */
    uint8_t qos : 2;         /* of the delivery */
    uint8_t retain : 1;      /* RETAIN of the delivery */
    uint8_t stored : 1;      /* the ledger knows of it */
};

/* One Application Message, as long as anybody is to get it. */
struct message {
    struct store_object object; /* OBJECT_MESSAGE; not in the ledger: in ram */
    struct timer expiry;        /* Message Expiry Interval; at: 0 = none */
    uint64_t seq;               /* its number, rising over all messages */
    uint64_t at;                /* when it was accepted, ms */
    struct topic *retained_at;  /* whose retained message it is, or NULL */
    struct text ram;            /* the body while not in the ledger */
    struct text from;           /* publisher's client id; retained ones only */
    struct receiver *to;        /* receivers; &one while one is enough */
    uint32_t to_n, to_cap;
    uint32_t live;  /* receivers still to be served */
    uint32_t used;  /* receivers not free: live ones and gone ones */
    uint32_t spare; /* first free receiver, counted from 1; 0 = none */
    uint32_t slot;  /* in server.messages */
    uint8_t qos;    /* as published */
    uint8_t dead;   /* nobody waits for it; gone ones still point here */
    struct receiver one; /* the first receiver: most have no other */
};

/* Where a delivery is: the message's slot and the index of its receiver. */
struct entry {
    uint32_t message, receiver;
};

/* Deliveries not yet sent, oldest first. */
struct queue {
    struct entry *ring;
    uint32_t size; /* 0 or a power of two */
    uint32_t head; /* index of the oldest */
    uint32_t n;
};

/* A delivery that was sent and waits for its acknowledgement. */
struct flight {
    uint16_t packet_id;
    uint8_t here; /* sent on this connection: takes a place in the window */
    struct entry entry;
    uint32_t order; /* with here: of its QoS the how-manieth it was sent */
};

/* A Packet Identifier of a QoS 2 PUBLISH received and not released. */
struct rx {
    uint16_t packet_id;
    uint8_t here; /* counts against our Receive Maximum on this connection */
    uint32_t order; /* in which the PUBRECs were sent, rising over the
                       session's connections; 0 = before the last restart */
};

struct will {
    struct text body; /* the PUBLISH packet; p NULL = no will */
    uint32_t delay;   /* Will Delay Interval, s */
    uint32_t expiry;  /* Message Expiry Interval, s; has_expiry tells */
    uint64_t due;     /* ms; 0 = the client is connected */
    uint8_t qos, retain, has_expiry;
};

struct session {
    struct store_object object; /* OBJECT_SESSION */
    struct node node;           /* by client id */
    uint64_t id;   /* its number in the ledger; a new session, a new number */
    uint32_t slot; /* in server.sessions */
    struct text client;         /* Client Identifier */
    struct session_link *link;  /* NULL = offline */
    uint32_t expiry;            /* Session Expiry Interval, s */
    uint8_t durable;            /* outlives its connection: is in the ledger */
    uint8_t dirty;              /* is in the list of those to be served */
    uint64_t offline;           /* since when, ms; 0 = online */
    struct timer expire;        /* TIMER_EXPIRY */
    struct timer will_timer;    /* TIMER_WILL */
    struct will will;
    struct sub *subs;
    uint32_t sub_n; /* how many they are */
    struct queue queue; /* its first entry is never GONE */
    uint32_t gone;        /* entries of the queue whose delivery is GONE */
    uint32_t queued[3];   /* live entries of the queue, by their QoS */
    uint32_t place;       /* number of the next delivery */
    struct flight *flights; /* by rising packet id */
    uint32_t flight_n, flight_cap;
    uint16_t packet_id; /* the last one given to a delivery */
    struct rx *rx;      /* by rising packet id */
    uint32_t rx_n, rx_cap;
    uint32_t rx_order; /* the last order that an rx was given */
    uint64_t mark;  /* the routing that last came by */
    uint32_t match; /* and its entry there */
};

enum link_state { LINK_NEW, LINK_OPEN, LINK_DONE };

#define FRESH_MAX 32 /* identifiers that a link remembers so */

/* A Packet Identifier whose answer has not left yet. */
struct fresh {
    uint16_t packet_id;
    uint8_t type; /* the mqtt_type it came in */
};

/* Packets that the client must answer in the order it got them. */
struct in_turn {
    uint32_t sent;     /* how many it got on this connection */
    uint32_t answered; /* how many of them it answered */
    uint32_t last;     /* the latest of those, counted from 1 */
};

struct session_link {
    struct session_server *server;
    struct session_link *next, *prev; /* all links of the server */
    struct session *session;          /* NULL before CONNECT and when done */
    enum link_state state;
    uint8_t traced; /* an enum trace */
    uint8_t held; /* has input that this turn had no time for */
    struct session_link *next_held;
    char peer[64];
    struct buf in;  /* bytes of a packet that is not complete */
    struct buf out; /* replies not yet sent */
    struct timer timer; /* TIMER_LINK: CONNECT awaited, or Keep Alive */
    uint64_t since;     /* when CONNECT was accepted, ms */
    uint64_t heard;     /* when the last packet came, ms */
    uint64_t begun;     /* when the packet that is coming began to, ms */
    uint64_t silence;   /* ms without a packet that end it; 0 = none */
    uint16_t keep_alive; /* s; the server's own if it overruled; 0 = none */
    uint32_t packet_max; /* the client's Maximum Packet Size */
    uint16_t window;     /* deliveries that may be open: at most the client's
                            Receive Maximum */
    uint32_t flying;     /* of it in use */
    uint32_t publishing; /* of our Receive Maximum in use at QoS 2 */
    uint32_t burst;      /* and at QoS 1: since output last left */
    uint8_t problem_information; /* Request Problem Information */
    uint8_t expiry_zero; /* CONNECT asked for Session Expiry Interval 0 */
    uint8_t overruled;   /* CONNACK has a Server Keep Alive */
    uint32_t noted; /* a bit for each enum habit that was explained */
    struct text *alias_in;  /* topics by alias; server's alias_max + 1 */
    struct text *alias_out; /* topics by alias; alias_out_n + 1 */
    uint16_t alias_out_n;   /* aliases that we use towards the client */
    uint16_t *resend; /* ids of the PUBLISHes to repeat, in their order */
    uint32_t resend_n, resend_at;
    uint64_t sys_owed; /* the round of $SYS topics that tells it all values */

    /* What the client's own conduct is judged by (section 18). */
    struct client *client; /* its marks; NULL = they are not kept (any more) */
    uint8_t resumed;    /* CONNACK said Session Present 1 */
    uint8_t fresh_n;    /* of fresh, and */
    struct fresh fresh[FRESH_MAX]; /* what came since output last left */
    struct in_turn publishes[2]; /* deliveries at QoS 1, at QoS 2 */
    struct in_turn pubrecs;      /* those that ask for PUBREL */
    uint32_t rx_base;   /* the session's rx_order when the link opened */
    uint32_t repeated;  /* order of the QoS 2 PUBLISH last repeated */
};

/* A subscription that the message being routed matches. */
struct match {
    struct session *session;
    struct sub *shared; /* the member chosen, or NULL */
    uint32_t id;        /* first of its identifiers in match_ids, from 1 */
    uint8_t qos, retain;
};

struct match_id {
    uint32_t id, next;
};

#define SYS_LOADS 9   /* counters that have moving averages */
#define SYS_WINDOWS 3 /* of each: over 1, 5 and 15 minutes */

/* What the $SYS topics tell. */
enum sys_value {
    SYS_VERSION, SYS_UPTIME, SYS_CONNECTED, SYS_DISCONNECTED, SYS_TOTAL,
    SYS_MAXIMUM, SYS_EXPIRED, SYS_RECEIVED, SYS_SENT, SYS_CONNECTS,
    SYS_PUBLISHES_RECEIVED, SYS_PUBLISHES_SENT, SYS_DROPPED,
    SYS_PAYLOAD_RECEIVED, SYS_PAYLOAD_SENT, SYS_BYTES_RECEIVED, SYS_BYTES_SENT,
    SYS_SOCKETS, SYS_SUBSCRIPTIONS, SYS_SHARED, SYS_RETAINED, SYS_MESSAGES,
    SYS_MESSAGE_BYTES,
    SYS_LOAD, /* the first moving average, in hundredths per minute */
    SYS_VALUES = SYS_LOAD + SYS_LOADS * SYS_WINDOWS
};

struct sys {
    uint64_t opened; /* when the server was, ms */
    uint64_t due;    /* of the next round, ms; 0 = nobody listens */
    uint64_t round;  /* counts rounds */
    uint64_t owed;   /* the latest sys_owed of all links */
    uint64_t told[SYS_VALUES];  /* values of the last round */
    uint64_t step;              /* end of the averages' step, ms */
    uint64_t before[SYS_LOADS]; /* counters at its beginning */
    uint64_t load[SYS_LOADS][SYS_WINDOWS]; /* per minute, times 2^16 */
    struct list asked; /* subscriptions of the SUBSCRIBE at hand that are to
                          get the values behind its SUBACK */
};

struct session_server {
    struct store *store;
    struct session_options opt;
    uint64_t now; /* of this turn, ms */
    struct store_object counters; /* OBJECT_COUNTERS */
    uint64_t next_session, next_message;
    uint64_t next_brief; /* number of the next session that is not durable */
    struct table clients;  /* sessions by client id */
    struct table topics;   /* nodes of the tree */
    struct table filters;  /* subscriptions by session and filter */
    struct table shares;   /* by topic node and ShareName */
    struct table via_sets; /* by content */
    struct slots sessions, messages, vias;
    struct topic *root;
    struct session_link *links;
    struct session_link *held, *held_last; /* in the order of arrival */
    uint64_t work;        /* counts packets, tree nodes, matches, ... */
    uint64_t packet_work; /* its value when the packet at hand began */
    size_t out_bytes;     /* unsent output of all links */
    size_t ram_bytes;     /* bodies of messages that are not in the ledger */
    uint32_t *dirty; /* slots of sessions that may have something to send */
    uint32_t dirty_n, dirty_cap;
    struct heap timers;    /* of sessions and messages */
    struct heap watches;   /* of links; they fire when all input is in */
    struct buf log, trace;
    struct buf body;           /* the message being published, encoded */
    struct list found, level, level_next; /* of the tree searches */
    struct match *matches;
    size_t match_n, match_cap;
    struct match_id *match_ids;
    uint32_t match_id_n, match_id_cap;
    uint8_t replaying; /* the ledger is being read back */
    uint64_t mark;     /* counts routings */
    uint64_t assigned; /* counts assigned client ids */
    size_t log_line;   /* where the line that is being written begins */
    uint64_t log_second; /* when the second of log_bytes began, ms */
    size_t log_bytes;  /* of lines written in this second */
    uint64_t unsaid;   /* lines that this second had no room for */
    uint64_t untraced; /* packets that this turn's trace had no room for */
    struct session_figures figures;
    struct sys sys;
    struct table marked; /* clients with marks, by Client Identifier */
    struct client *heard_last, *heard_first; /* the ends of their list */
};

/* A message on its way in: from a client or a will. */
struct inbound {
    struct mqtt_bytes topic;      /* resolved, if it came as an alias */
    struct mqtt_bytes properties; /* those that are passed on */
    struct mqtt_bytes payload;
    uint8_t qos, retain;  /* as published */
    uint64_t expires;     /* ms since 1970, 0 = never */
    struct session *from; /* the publisher's */
};

static struct mqtt_bytes bytes_of(const struct text *t)
{
    struct mqtt_bytes b = {t->p, t->n};
    return b;
}

static int bytes_same(struct mqtt_bytes a, struct mqtt_bytes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static struct mqtt_bytes bytes_literal(const char *text)
{
    struct mqtt_bytes b = {(const uint8_t *)text, strlen(text)};
    return b;
}

static struct text text_copy(struct mqtt_bytes b)
{
    struct text t = {mem_new(b.n + 1), b.n};
    if (b.n > 0)
        memcpy(t.p, b.p, b.n);
    return t;
}

static void text_free(struct text *t)
{
    free(t->p);
    t->p = NULL;
    t->n = 0;
}

/* Gives back the memory of a buffer that is empty now but was large. */
static void buf_rest(struct buf *b)
{
    if (b->n == 0 && b->base + b->cap > 4096)
        buf_free(b);
}

/* ======================================================================== */
/* 2  tables, maps, slots                                                   */
/* ======================================================================== */

static uint64_t rotate(uint64_t x, int by)
{
    return (x << by) | (x >> (64 - by));
}

static void hash_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

static uint64_t eight_bytes(const uint8_t *p, size_t n)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++)
        x |= (uint64_t)p[i] << (8 * i);
    return x;
}

/* SipHash-1-3 with the server's seed: names come from strangers, who must
 * not be able to choose them so that all fall into one bucket. */
static uint64_t hash_bytes(const struct session_server *s, struct mqtt_bytes b)
{
    uint64_t k0 = eight_bytes(s->opt.seed, 8);
    uint64_t k1 = eight_bytes(s->opt.seed + 8, 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du,
                     k0 ^ 0x6c7967656e657261u, k1 ^ 0x7465646279746573u};
    uint64_t m;
    size_t i = 0;
    for (; i + 8 <= b.n; i += 8) {
        m = eight_bytes(b.p + i, 8);
        v[3] ^= m;
        hash_round(v);
        v[0] ^= m;
    }
    m = (uint64_t)b.n << 56;
    if (i < b.n)
        m |= eight_bytes(b.p + i, b.n - i);
    v[3] ^= m;
    hash_round(v);
    v[0] ^= m;
    v[2] ^= 0xff;
    for (int r = 0; r < 3; r++)
        hash_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Spreads a number that nobody outside chooses. */
static uint64_t hash_number(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15u;
    return x ^ (x >> 32);
}

static void table_grow(struct table *t)
{
    size_t size = t->size == 0 ? 64 : t->size * 2;
    struct node **bucket = mem_new(size * sizeof *bucket);
    for (size_t i = 0; i < t->size; i++) {
        while (t->bucket[i] != NULL) {
            struct node *n = t->bucket[i];
            t->bucket[i] = n->next;
            n->next = bucket[n->hash & (size - 1)];
            bucket[n->hash & (size - 1)] = n;
        }
    }
    free(t->bucket);
    t->bucket = bucket;
    t->size = size;
}

static void table_add(struct table *t, struct node *n, uint64_t hash)
{
    if (t->count >= t->size)
        table_grow(t);
    n->hash = hash;
    n->next = t->bucket[hash & (t->size - 1)];
    t->bucket[hash & (t->size - 1)] = n;
    t->count++;
}

static void table_del(struct table *t, struct node *n)
{
    struct node **at = &t->bucket[n->hash & (t->size - 1)];
    while (*at != n)
        at = &(*at)->next;
    *at = n->next;
    t->count--;
}

/* The next entry with this hash, from n on. */
static struct node *node_with(struct node *n, uint64_t hash)
{
    while (n != NULL && n->hash != hash)
        n = n->next;
    return n;
}

static struct node *table_first(const struct table *t, uint64_t hash)
{
    if (t->size == 0)
        return NULL;
    return node_with(t->bucket[hash & (t->size - 1)], hash);
}

static size_t map_place(const struct map *m, uint64_t key)
{
    size_t i = hash_number(key) & (m->size - 1);
    while (m->at[i].key != 0 && m->at[i].key != key)
        i = (i + 1) & (m->size - 1);
    return i;
}

static void map_put(struct map *m, uint64_t key, uint64_t value)
{
    if (m->count * 3 >= m->size * 2) {
        struct map old = *m;
        m->size = old.size == 0 ? 256 : old.size * 2;
        m->at = mem_new(m->size * sizeof *m->at);
        for (size_t i = 0; i < old.size; i++) {
            if (old.at[i].key != 0)
                m->at[map_place(m, old.at[i].key)] = old.at[i];
        }
        free(old.at);
    }
    struct pair *place = &m->at[map_place(m, key)];
    m->count += place->key == 0;
    place->key = key;
    place->value = value;
}

/* The value, or 0 if the key is unknown. */
static uint64_t map_get(const struct map *m, uint64_t key)
{
    return m->size == 0 || key == 0 ? 0 : m->at[map_place(m, key)].value;
}

static void map_free(struct map *m)
{
    free(m->at);
    memset(m, 0, sizeof *m);
}

/* Room for n + 1 things of this size in an array whose capacity is *cap. */
static void *array_room(void *array, uint32_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return array;
    *cap = *cap == 0 ? 8 : *cap * 2;
    return mem_grow(array, *cap * size);
}

static uint32_t slots_take(struct slots *s, void *what)
{
    uint32_t slot;
    if (s->spare_n > 0) {
        slot = s->spare[--s->spare_n];
    } else {
        if (s->n == 0)
            s->n = 1; /* slot 0 means none */
        s->at = array_room(s->at, s->n, &s->cap, sizeof *s->at);
        s->at[0] = NULL;
        slot = s->n++;
    }
    s->at[slot] = what;
    return slot;
}

static void slots_give(struct slots *s, uint32_t slot)
{
    s->at[slot] = NULL;
    s->spare = array_room(s->spare, s->spare_n, &s->spare_cap,
                          sizeof *s->spare);
    s->spare[s->spare_n++] = slot;
}

/* Leaves the slot empty without giving its number out again. */
static void slots_hold(struct slots *s, uint32_t slot)
{
    s->at[slot] = NULL;
}

/* Gives back all numbers that were held. */
static void slots_release(struct slots *s)
{
    s->spare_n = 0;
    for (uint32_t i = 1; i < s->n; i++) {
        if (s->at[i] == NULL)
            slots_give(s, i);
    }
}

static void slots_free(struct slots *s)
{
    free(s->at);
    free(s->spare);
}

static void list_add(struct list *l, void *what)
{
    if (l->n == l->cap) {
        l->cap = l->cap == 0 ? 16 : l->cap * 2;
        l->at = mem_grow(l->at, l->cap * sizeof *l->at);
    }
    l->at[l->n++] = what;
}

static struct session *session_at(const struct session_server *s, uint32_t slot)
{
    return s->sessions.at[slot];
}

static struct message *message_at(const struct session_server *s, uint32_t slot)
{
    return s->messages.at[slot];
}

/* ======================================================================== */
/* 3  timers: a binary heap, the earliest at its top                        */
/* ======================================================================== */

static void heap_place(struct heap *h, uint32_t i, struct timer *t)
{
    h->at[i] = t;
    t->slot = i + 1;
}

static void heap_up(struct heap *h, uint32_t i, struct timer *t)
{
    while (i > 0 && h->at[(i - 1) / 2]->at > t->at) {
        heap_place(h, i, h->at[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_place(h, i, t);
}

static void heap_down(struct heap *h, uint32_t i, struct timer *t)
{
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child + 1 < h->n && h->at[child + 1]->at < h->at[child]->at)
            child++;
        if (child >= h->n || h->at[child]->at >= t->at)
            break;
        heap_place(h, i, h->at[child]);
        i = child;
    }
    heap_place(h, i, t);
}

static struct heap *timer_heap(struct session_server *s, const struct timer *t)
{
    return t->kind == TIMER_LINK ? &s->watches : &s->timers;
}

static void timer_stop(struct session_server *s, struct timer *t)
{
    struct heap *h = timer_heap(s, t);
    if (t->slot == 0)
        return;
    uint32_t i = t->slot - 1;
    struct timer *last = h->at[--h->n];
    t->slot = 0;
    if (last == t)
        return;
    if (i > 0 && h->at[(i - 1) / 2]->at > last->at)
        heap_up(h, i, last);
    else
        heap_down(h, i, last);
}

static void timer_set(struct session_server *s, struct timer *t, uint64_t at)
{
    struct heap *h = timer_heap(s, t);
    timer_stop(s, t);
    h->at = array_room(h->at, h->n, &h->cap, sizeof *h->at);
    t->at = at;
    heap_up(h, h->n++, t);
}

static uint64_t heap_due(const struct heap *h)
{
    return h->n > 0 ? h->at[0]->at : NEVER;
}

/* ======================================================================== */
/* 4  log and trace                                                         */
/* ======================================================================== */

/* Adds a name from outside: printable ASCII as it is, the rest as \xNN,
 * quoted, and cut when it is long. */
static void name_add(struct buf *b, struct mqtt_bytes name)
{
    char hex[8];
    buf_text(b, "\"");
    for (size_t i = 0; i < name.n && i < 100; i++) {
        uint8_t c = name.p[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            buf_add(b, &c, 1);
        } else {
            snprintf(hex, sizeof hex, "\\x%02X", c);
            buf_text(b, hex);
        }
    }
    buf_text(b, name.n > 100 ? "...\"" : "\"");
}

static void client_add(struct buf *b, struct mqtt_bytes client)
{
    if (client.n > 0)
        name_add(b, client);
    else
        buf_text(b, "-");
}

/* Begins a line about a client; log_end() ends it. */
static void log_begin_client(struct session_server *s,
                             struct mqtt_bytes client,
                             const struct session_link *link)
{
    s->log_line = s->log.n;
    buf_text(&s->log, "client ");
    client_add(&s->log, client);
    if (link != NULL) {
        buf_text(&s->log, " ");
        buf_text(&s->log, link->peer);
    }
    buf_text(&s->log, ": ");
}

/* The same.  Without a session it is whom the CONNECT names that is refused,
 * as far as it can be told. */
static void log_begin(struct session_server *s, const struct session *session,
                      const struct session_link *link)
{
    log_begin_client(s,
                     session != NULL
                         ? bytes_of(&session->client)
                         : mqtt_connect_client_id(link->in.p, link->in.n),
                     link);
}

static void log_words(struct session_server *s, const char *format,
                      va_list args)
{
    char words[400];
    int n = vsnprintf(words, sizeof words, format, args);
    buf_text(&s->log, words);
    if (n >= (int)sizeof words)
        buf_text(&s->log, "...");
}

/* Goes on with the line. */
static void log_add(struct session_server *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_words(s, format, args);
    va_end(args);
}

/* Past LOG_HIGH bytes in one second a line is only counted, so that no client
 * can fill the memory, or the disk that stderr goes to, with log. */
static void log_end(struct session_server *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_words(s, format, args);
    va_end(args);
    buf_text(&s->log, "\n");
    if (s->log_bytes >= LOG_HIGH) {
        s->log.n = s->log_line;
        s->unsaid++;
    } else {
        s->log_bytes += s->log.n - s->log_line;
    }
}

/* Says how much was not said. */
static void log_unsaid(struct session_server *s)
{
    char line[80];
    if (s->unsaid == 0)
        return;
    snprintf(line, sizeof line, "%llu more lines like these in one second\n",
             (unsigned long long)s->unsaid);
    buf_text(&s->log, line);
    s->unsaid = 0;
}

/* The time has moved on: when the second has passed, another begins. */
static void log_clock(struct session_server *s)
{
    if (s->now < s->log_second + 1000)
        return;
    log_unsaid(s);
    s->log_second = s->now;
    s->log_bytes = 0;
}

/* Why, as the client's Reason String, the log and the trace have it: the
 * statement, what is wrong, and the byte, counted from the packet's first. */
static void error_print(char out[WHY_MAX], const struct mqtt_error *err)
{
    int has = err->statement[0] != '\0';
    int n = snprintf(out, WHY_MAX, "%s%s%s", has ? err->statement : "",
                     has ? ": " : "", err->what);
    if (err->offset != NO_BYTE && n > 0 && n < WHY_MAX)
        snprintf(out + n, WHY_MAX - (size_t)n, " (byte %lu)",
                 (unsigned long)err->offset);
}

static void count_packet(uint64_t by_type[16], const struct mqtt_packet *packet,
                         uint64_t *payload_bytes)
{
    by_type[packet->type]++;
    if (packet->type == MQTT_PUBLISH)
        *payload_bytes += packet->publish.payload.n;
}

/* The trace.  A link is shown or not from the moment its client is known. */
enum trace { TRACE_UNDECIDED, TRACE_SHOWN, TRACE_HIDDEN };

/* Whose packet this is: of the session, or of the CONNECT at hand. */
static struct mqtt_bytes trace_client(const struct session_link *link,
                                      const struct mqtt_packet *p)
{
    struct mqtt_bytes unknown = {NULL, 0};
    if (link->session != NULL)
        return bytes_of(&link->session->client);
    return p != NULL && p->type == MQTT_CONNECT ? p->connect.client_id
                                                : unknown;
}

/* With options.trace_client, a link whose client is not known is shown only
 * where it fails. */
static int trace_wanted(struct session_link *link, struct mqtt_bytes client,
                        int failed)
{
    const char *only = link->server->opt.trace_client;
    if (link->server->opt.trace == 0 || only == NULL)
        return link->server->opt.trace != 0;
    if (client.n > 0 && link->traced == TRACE_UNDECIDED)
        link->traced = bytes_same(client, bytes_literal(only)) ? TRACE_SHOWN
                                                               : TRACE_HIDDEN;
    return link->traced == TRACE_SHOWN ||
           (link->traced == TRACE_UNDECIDED && failed);
}

/* Begins a line; the caller says what was sent or received and adds the
 * newline.  0 = it is not wanted, or past TRACE_HIGH bytes in one turn, when
 * packets are only counted. */
static int trace_begin(struct session_link *link, const char *direction,
                       const struct mqtt_packet *p, int failed)
{
    struct session_server *s = link->server;
    struct mqtt_bytes client = trace_client(link, p);
    if (!trace_wanted(link, client, failed))
        return 0;
    if (s->trace.n >= TRACE_HIGH) {
        s->untraced++;
        return 0;
    }
    buf_text(&s->trace, direction);
    buf_text(&s->trace, link->peer);
    buf_text(&s->trace, " ");
    client_add(&s->trace, client);
    buf_text(&s->trace, " ");
    return 1;
}

/* With options.trace 2: the bytes behind the line, a field a line. */
static void trace_bytes(struct session_server *s, const uint8_t *bytes,
                        size_t n, enum mqtt_side from, int first)
{
    struct mqtt_annotate walk;
    struct mqtt_note note;
    char lines[MQTT_LINES_MAX];
    size_t at = 0;
    if (s->opt.trace < 2)
        return;
    mqtt_annotate_open(&walk, bytes, n, from, first);
    while (s->trace.n < TRACE_HIGH && mqtt_annotate_next(&walk, &note)) {
        mqtt_annotate_print(&walk, &note, "    ", lines, sizeof lines);
        buf_text(&s->trace, lines);
        at = note.offset + note.n;
    }
    if (at < n) {
        snprintf(lines, sizeof lines, "    ... %lu more bytes\n",
                 (unsigned long)(n - at));
        buf_text(&s->trace, lines);
    }
}

static void trace_packet(struct session_link *link, enum mqtt_side from,
                         const struct mqtt_packet *p, const uint8_t *bytes,
                         size_t n)
{
    struct session_server *s = link->server;
    char line[2048];
    if (!trace_begin(link, from == MQTT_FROM_CLIENT ? "< " : "> ", p,
                     p->reason >= 0x80))
        return;
    size_t length = mqtt_packet_print(p, line, sizeof line);
    buf_text(&s->trace, line);
    buf_text(&s->trace, length + 1 < sizeof line ? "\n" : "...\n");
    trace_bytes(s, bytes, n, from, 0);
}

/* The first n bytes of the link's input are no packet, or one that cannot be
 * decoded.  What a connection begins with may be a CONNECT with a Password. */
static void trace_fault(struct session_link *link, const struct mqtt_error *err,
                        size_t n)
{
    struct session_server *s = link->server;
    char why[WHY_MAX];
    if (!trace_begin(link, "< ", NULL, 1))
        return;
    error_print(why, err);
    buf_text(&s->trace, "not accepted: ");
    buf_text(&s->trace, why);
    buf_text(&s->trace, "\n");
    trace_bytes(s, link->in.p, n, MQTT_FROM_CLIENT, link->state == LINK_NEW);
}

/* At the end of a turn: says how much was not shown. */
static void trace_settle(struct session_server *s)
{
    char line[80];
    if (s->untraced > 0) {
        snprintf(line, sizeof line, "%llu more packets in one turn\n",
                 (unsigned long long)s->untraced);
        buf_text(&s->trace, line);
    }
    s->untraced = 0;
    buf_rest(&s->trace);
}

static void drop_count(struct session_server *s, enum session_drop kind,
                       uint64_t n)
{
    s->figures.dropped += n;
    s->figures.dropped_by[kind] += n;
}

/* Says that a delivery was discarded: nothing is dropped silently. */
static void log_drop(struct session_server *s, const struct session *session,
                     struct mqtt_bytes topic, enum session_drop kind)
{
    static const char *const why[DROP_KINDS] = {
        "its Message Expiry Interval passed [MQTT-3.3.2-5]",
        "larger than the client's Maximum Packet Size [MQTT-3.1.2-25]",
        "the queue is full",
        "QoS 0, the disk is full",
        "no memory for sessions that end with their connection",
        "QoS 0, the client reads too slowly",
        "its session ended"};
    drop_count(s, kind, 1);
    log_begin(s, session, session->link);
    buf_text(&s->log, "message on ");
    name_add(&s->log, topic);
    log_end(s, " discarded: %s", why[kind]);
}

/* Begins the line about what is refused or ended here.  type: the packet that
 * tells the client; PUBLISH: none can, at QoS 0.  log_end() ends it. */
static void log_refusal(struct session_link *link, uint8_t type,
                        uint8_t reason, const char *why)
{
    log_begin(link->server, link->session, link);
    log_add(link->server, "%s 0x%02X %s: %s", mqtt_type_name(type),
            (unsigned)reason, mqtt_reason_name(type, reason), why);
}

/* Ends it with the topic or filter that was refused. */
static void log_end_name(struct session_server *s, struct mqtt_bytes name)
{
    buf_text(&s->log, ", ");
    name_add(&s->log, name);
    log_end(s, "");
}

static void log_seconds(struct session_server *s, uint32_t seconds)
{
    if (seconds == EXPIRY_NEVER)
        log_add(s, "without end");
    else
        log_add(s, "%lu s", (unsigned long)seconds);
}

/* What is legal and yet not what its author may have meant. */
enum habit {
    HABIT_EXPIRY_0,
    HABIT_CLEAN_START,
    HABIT_KEEP_ALIVE_0,
    HABIT_ASSIGNED,
    HABIT_WILL_DELAY,
    HABIT_PACKET_SMALL,
    HABIT_RESPONSE_INFORMATION,
    HABIT_SLASH,
    HABIT_ALL_TOPICS,
    HABIT_SHARED,
    HABIT_QOS_0,
    HABIT_MESSAGE_EXPIRY_0,
    HABITS
};

static const char *const habit_words[HABITS] = {
    [HABIT_EXPIRY_0] = "Clean Start 0 with Session Expiry Interval 0: this "
                       "session ends with its connection (3.1.2.11.2)",
    [HABIT_CLEAN_START] = "Clean Start 1 with a Session Expiry Interval: the "
                          "session is kept, and thrown away if the next "
                          "CONNECT has Clean Start 1 too [MQTT-3.1.2-4]",
    [HABIT_KEEP_ALIVE_0] = "Keep Alive 0: a dead connection is not noticed, "
                           "and its will waits (3.1.2.10)",
    [HABIT_ASSIGNED] = "the Client Identifier is assigned and the session is "
                       "kept: only a CONNECT with that identifier resumes it "
                       "[MQTT-3.1.3-7]",
    [HABIT_WILL_DELAY] = "the Will Delay Interval is longer than the Session "
                         "Expiry Interval: the will is published when the "
                         "session ends [MQTT-3.1.2-8]",
    [HABIT_PACKET_SMALL] = "a Maximum Packet Size below 256 bytes: Reason "
                           "Strings may not fit, and larger messages are "
                           "not sent [MQTT-3.1.2-25]",
    [HABIT_RESPONSE_INFORMATION] = "Response Information was asked for: this "
                                   "server has none to give (3.1.2.11.6)",
    [HABIT_SLASH] = "a topic or filter that begins with /: its first level is "
                    "empty, /a is not a (4.7.3)",
    [HABIT_ALL_TOPICS] = "the filter # matches no topic that begins with $ "
                         "[MQTT-4.7.2-1]",
    [HABIT_SHARED] = "a Shared Subscription is sent no retained messages when "
                     "it is made (4.8.2)",
    [HABIT_QOS_0] = "a session that is kept subscribes at QoS 0: messages of "
                    "QoS 1 and 2 come to it at QoS 0, too [MQTT-3.8.4-8]",
    [HABIT_MESSAGE_EXPIRY_0] = "Message Expiry Interval 0: only who can be "
                               "sent the message at once gets it "
                               "[MQTT-3.3.2-5]"};

/* Explains a habit, once on each connection. */
static void note(struct session_link *link, enum habit habit)
{
    uint32_t bit = (uint32_t)1 << habit;
    if (link->noted & bit)
        return;
    link->noted |= bit;
    log_begin(link->server, link->session, link);
    log_end(link->server, "note: %s", habit_words[habit]);
}

/* ======================================================================== */
/* 5  via sets                                                              */
/* ======================================================================== */

static uint64_t via_hash(const struct session_server *s, const uint32_t *ids,
                         uint32_t count, struct mqtt_bytes share)
{
    uint64_t h = hash_bytes(s, share);
    for (uint32_t i = 0; i < count; i++)
        h = hash_number(h ^ ids[i]);
    return h;
}

/* The slot of the set with this content, with one more reference; 0 when
 * there is nothing to say. */
static uint32_t via_take(struct session_server *s, const uint32_t *ids,
                         uint32_t count, struct mqtt_bytes share)
{
    if (count == 0 && share.n == 0)
        return 0;
    uint64_t hash = via_hash(s, ids, count, share);
    struct node *n = table_first(&s->via_sets, hash);
    for (; n != NULL; n = node_with(n->next, hash)) {
        struct via *v = OWNER(struct via, node, n);
        struct mqtt_bytes have = {v->share, v->share_n};
        if (v->count == count && bytes_same(have, share) &&
            (count == 0 || memcmp(v->ids, ids, count * sizeof *ids) == 0)) {
            v->refs++;
            return v->slot;
        }
    }
    size_t ids_size = count * sizeof *ids;
    struct via *v = mem_new(sizeof *v + ids_size + share.n);
    v->count = count;
    v->share_n = (uint32_t)share.n;
    v->share = (uint8_t *)v + sizeof *v + ids_size;
    if (count > 0)
        memcpy(v->ids, ids, ids_size);
    if (share.n > 0)
        memcpy(v->share, share.p, share.n);
    v->refs = 1;
    v->slot = slots_take(&s->vias, v);
    table_add(&s->via_sets, &v->node, hash);
    return v->slot;
}

static void via_give(struct session_server *s, uint32_t slot)
{
    if (slot == 0)
        return;
    struct via *v = s->vias.at[slot];
    if (--v->refs == 0) {
        table_del(&s->via_sets, &v->node);
        slots_give(&s->vias, slot);
        free(v);
    }
}

/* ======================================================================== */
/* 6  topic tree                                                            */
/* ======================================================================== */

/* Cuts the next level off *rest.  0 when none is left; *more says whether
 * a separator was taken, so that "a/" has two levels (4.7.1.1). */
static int level_next(struct mqtt_bytes *rest, int *more,
                      struct mqtt_bytes *level)
{
    if (!*more)
        return 0;
    const uint8_t *slash = rest->n > 0 ? memchr(rest->p, '/', rest->n) : NULL;
    level->p = rest->p;
    level->n = slash != NULL ? (size_t)(slash - rest->p) : rest->n;
    *more = slash != NULL;
    if (*more) {
        rest->p += level->n + 1;
        rest->n -= level->n + 1;
    }
    return 1;
}

static uint64_t topic_hash(const struct session_server *s,
                           const struct topic *parent, struct mqtt_bytes level)
{
    return hash_bytes(s, level) ^ hash_number((uint64_t)(uintptr_t)parent);
}

static struct topic *topic_child(const struct session_server *s,
                                 const struct topic *parent,
                                 struct mqtt_bytes level)
{
    uint64_t hash = topic_hash(s, parent, level);
    struct node *n = table_first(&s->topics, hash);
    for (; n != NULL; n = node_with(n->next, hash)) {
        struct topic *t = OWNER(struct topic, node, n);
        struct mqtt_bytes have = {t->level, t->n};
        if (t->parent == parent && bytes_same(have, level))
            return t;
    }
    return NULL;
}

static struct topic *topic_new(struct session_server *s, struct topic *parent,
                               struct mqtt_bytes level)
{
    struct topic *t = mem_new(sizeof *t + level.n + 1);
    t->n = level.n;
    if (level.n > 0)
        memcpy(t->level, level.p, level.n);
    t->parent = parent;
    if (parent != NULL) {
        t->next = parent->child;
        if (t->next != NULL)
            t->next->prev = t;
        parent->child = t;
        table_add(&s->topics, &t->node, topic_hash(s, parent, level));
    }
    return t;
}

/* The node where a topic or filter ends; made with all its parents if
 * `make`, else NULL when it is not there. */
static struct topic *topic_find(struct session_server *s,
                                struct mqtt_bytes name, int make)
{
    struct topic *t = s->root;
    struct mqtt_bytes level;
    int more = 1;
    while (t != NULL && level_next(&name, &more, &level)) {
        struct topic *child = topic_child(s, t, level);
        if (child == NULL && make)
            child = topic_new(s, t, level);
        t = child;
    }
    return t;
}

/* Frees a node that holds nothing any more, and its parents likewise. */
static void topic_tidy(struct session_server *s, struct topic *t)
{
    while (t->parent != NULL && t->child == NULL && t->subs == NULL &&
           t->shares == NULL && t->retained == NULL) {
        struct topic *parent = t->parent;
        if (t->prev != NULL)
            t->prev->next = t->next;
        else
            parent->child = t->next;
        if (t->next != NULL)
            t->next->prev = t->prev;
        table_del(&s->topics, &t->node);
        free(t);
        t = parent;
    }
}

static void level_swap(struct session_server *s)
{
    struct list was = s->level;
    s->level = s->level_next;
    s->level_next = was;
    s->level_next.n = 0;
}

static void list_add_topic(struct list *l, struct topic *t)
{
    if (t != NULL)
        list_add(l, t);
}

/* Fills s->found with the nodes of all filters that match the topic, level
 * by level.  A filter that begins with a wildcard does not match a topic
 * that begins with $ [MQTT-4.7.2-1]. */
static void topic_match_filters(struct session_server *s,
                                struct mqtt_bytes topic)
{
    struct mqtt_bytes plus = bytes_literal("+"), hash = bytes_literal("#");
    struct mqtt_bytes level;
    int more = 1, wild = topic.p[0] != '$';
    s->found.n = s->level.n = s->level_next.n = 0;
    list_add(&s->level, s->root);
    while (level_next(&topic, &more, &level)) {
        s->work += s->level.n;
        for (size_t i = 0; i < s->level.n; i++) {
            struct topic *t = s->level.at[i];
            if (wild) {
                list_add_topic(&s->found, topic_child(s, t, hash));
                list_add_topic(&s->level_next, topic_child(s, t, plus));
            }
            list_add_topic(&s->level_next, topic_child(s, t, level));
        }
        level_swap(s);
        wild = 1;
    }
    for (size_t i = 0; i < s->level.n; i++) {
        list_add(&s->found, s->level.at[i]);
        /* "a/#" matches "a" too (4.7.1.2) */
        list_add_topic(&s->found, topic_child(s, s->level.at[i], hash));
    }
}

/* Adds every retained message at or below `top` to s->found. */
static void topic_collect_below(struct session_server *s, struct topic *top)
{
    struct topic *t = top;
    for (;;) {
        if (t->retained != NULL)
            list_add(&s->found, t->retained);
        if (t->child != NULL && t->kept > 0) {
            t = t->child;
            continue;
        }
        while (t != top && t->next == NULL)
            t = t->parent;
        if (t == top)
            return;
        t = t->next;
    }
}

/* Adds the nodes below t that one level of a filter stands for. */
static void topic_step(struct session_server *s, struct topic *t,
                       struct mqtt_bytes level)
{
    if (!bytes_same(level, bytes_literal("+"))) {
        list_add_topic(&s->level_next, topic_child(s, t, level));
        return;
    }
    for (struct topic *c = t->child; c != NULL; c = c->next) {
        if (c->kept > 0 && !(t == s->root && c->n > 0 && c->level[0] == '$'))
            list_add(&s->level_next, c);
    }
}

/* Fills s->level with the nodes that the filter's levels stand for, in the
 * order of the tree.  1 = the filter ends with "#": what is below them matches
 * as well. */
static int topic_match_levels(struct session_server *s,
                              struct mqtt_bytes filter)
{
    struct mqtt_bytes level;
    int more = 1, rest = 0;
    s->level.n = s->level_next.n = 0;
    list_add(&s->level, s->root);
    while (!rest && level_next(&filter, &more, &level)) {
        rest = bytes_same(level, bytes_literal("#"));
        if (rest && (s->level.n == 0 || s->level.at[0] != s->root))
            break;
        if (rest) /* all, but not what begins with $ [MQTT-4.7.2-1] */
            level = bytes_literal("+");
        for (size_t i = 0; i < s->level.n; i++)
            topic_step(s, s->level.at[i], level);
        level_swap(s);
        s->work += s->level.n + 1;
    }
    return rest;
}

/* Fills s->found with the retained messages whose topics match the filter. */
static void topic_match_retained(struct session_server *s,
                                 struct mqtt_bytes filter)
{
    int below = topic_match_levels(s, filter);
    s->found.n = 0;
    for (size_t i = 0; i < s->level.n; i++) {
        struct topic *t = s->level.at[i];
        if (below)
            topic_collect_below(s, t);
        else if (t->retained != NULL)
            list_add(&s->found, t->retained);
    }
    s->work += s->found.n;
}

/* The Topic Name that ends at this node. */
static struct text topic_name(const struct topic *t)
{
    size_t n = 0;
    for (const struct topic *up = t; up->parent != NULL; up = up->parent)
        n += up->n + 1;
    struct text name = {mem_new(n + 1), n - 1};
    for (; t->parent != NULL; t = t->parent) {
        n -= t->n + 1;
        if (t->n > 0)
            memcpy(name.p + n, t->level, t->n);
        if (n > 0)
            name.p[n - 1] = '/';
    }
    return name;
}

/* ======================================================================== */
/* 7  subscriptions                                                         */
/* ======================================================================== */

static uint64_t sub_hash(const struct session_server *s,
                         const struct session *session,
                         struct mqtt_bytes filter)
{
    return hash_bytes(s, filter) ^ hash_number(session->id);
}

static struct sub *sub_find(const struct session_server *s,
                            const struct session *session,
                            struct mqtt_bytes filter)
{
    uint64_t hash = sub_hash(s, session, filter);
    struct node *n = table_first(&s->filters, hash);
    for (; n != NULL; n = node_with(n->next, hash)) {
        struct sub *sub = OWNER(struct sub, node, n);
        struct mqtt_bytes have = {sub->filter, sub->n};
        if (sub->session == session && bytes_same(have, filter))
            return sub;
    }
    return NULL;
}

static struct share *share_find(const struct session_server *s,
                                const struct topic *t, struct mqtt_bytes name)
{
    uint64_t hash = topic_hash(s, t, name);
    struct node *n = table_first(&s->shares, hash);
    for (; n != NULL; n = node_with(n->next, hash)) {
        struct share *g = OWNER(struct share, node, n);
        struct mqtt_bytes have = {g->name, g->n};
        if (g->topic == t && bytes_same(have, name))
            return g;
    }
    return NULL;
}

static struct share *share_make(struct session_server *s, struct topic *t,
                                struct mqtt_bytes name)
{
    struct share *g = share_find(s, t, name);
    if (g != NULL)
        return g;
    g = mem_new(sizeof *g + name.n);
    g->topic = t;
    g->n = name.n;
    memcpy(g->name, name.p, name.n);
    g->next = t->shares;
    if (g->next != NULL)
        g->next->prev = g;
    t->shares = g;
    table_add(&s->shares, &g->node, topic_hash(s, t, name));
    return g;
}

static void share_free(struct session_server *s, struct share *g)
{
    if (g->prev != NULL)
        g->prev->next = g->next;
    else
        g->topic->shares = g->next;
    if (g->next != NULL)
        g->next->prev = g->prev;
    table_del(&s->shares, &g->node);
    free(g);
}

/* The list that a subscription belongs to. */
static struct sub **sub_list(const struct sub *sub)
{
    return sub->share != NULL ? &sub->share->subs[sub->connected]
                              : &sub->topic->subs;
}

static void sub_link(struct sub *sub)
{
    struct sub **first = sub_list(sub);
    sub->prev = NULL;
    sub->next = *first;
    if (sub->next != NULL)
        sub->next->prev = sub;
    *first = sub;
}

static void sub_unlink(struct sub *sub)
{
    if (sub->prev != NULL)
        sub->prev->next = sub->next;
    else
        *sub_list(sub) = sub->next;
    if (sub->next != NULL)
        sub->next->prev = sub->prev;
    if (sub->share != NULL && sub->share->turn[sub->connected] == sub)
        sub->share->turn[sub->connected] = sub->next;
}

/* The session has come or gone: so have its memberships. */
static void session_share(struct session *session, uint8_t connected)
{
    for (struct sub *sub = session->subs; sub != NULL; sub = sub->mate) {
        if (sub->share != NULL && sub->connected != connected) {
            sub_unlink(sub);
            sub->connected = connected;
            sub_link(sub);
        }
    }
}

/* Makes a subscription to a filter that is legal and new to the session. */
static struct sub *sub_new(struct session_server *s, struct session *session,
                           struct mqtt_bytes whole)
{
    struct mqtt_bytes name, filter;
    struct mqtt_error err;
    int bad = mqtt_topic_filter_parse(whole, &name, &filter, &err);
    assert(bad == 0);
    (void)bad;
    struct sub *sub = mem_new(sizeof *sub + whole.n);
    sub->object.kind = OBJECT_SUB;
    sub->session = session;
    sub->n = whole.n;
    memcpy(sub->filter, whole.p, whole.n);
    sub->topic = topic_find(s, filter, 1);
    if (name.n > 0)
        sub->share = share_make(s, sub->topic, name);
    sub->connected = session->link != NULL;
    sub_link(sub);
    sub->mate = session->subs;
    if (sub->mate != NULL)
        sub->mate->mate_prev = sub;
    session->subs = sub;
    table_add(&s->filters, &sub->node, sub_hash(s, session, whole));
    session->sub_n++;
    s->figures.subscriptions++;
    return sub;
}

/* Forgets a subscription; the ledger's note is the caller's. */
static void sub_del(struct session_server *s, struct sub *sub)
{
    sub_unlink(sub);
    if (sub->mate_prev != NULL)
        sub->mate_prev->mate = sub->mate;
    else
        sub->session->subs = sub->mate;
    if (sub->mate != NULL)
        sub->mate->mate_prev = sub->mate_prev;
    if (sub->share != NULL && sub->share->subs[0] == NULL &&
        sub->share->subs[1] == NULL)
        share_free(s, sub->share);
    topic_tidy(s, sub->topic);
    table_del(&s->filters, &sub->node);
    store_object_drop(s->store, &sub->object);
    sub->session->sub_n--;
    s->figures.subscriptions--;
    free(sub);
}

/* ======================================================================== */
/* 8  records                                                               */
/* ======================================================================== */

/* Why an object's whole state is written. */
enum write {
    WRITE_NEW,  /* it changed: the body, if any, is at hand */
    WRITE_FOLD, /* cleaning moves it: its body is carried over */
    WRITE_INDEX /* a checkpoint: the index points at its body */
};

/* Ends the record of an object. */
static void record_finish(struct session_server *s, enum write how,
                          enum store_when when, struct store_object *o,
                          struct mqtt_bytes body)
{
    if (how == WRITE_NEW)
        store_record_end_object(s->store, when, o, body.p, body.n);
    else if (how == WRITE_FOLD)
        store_record_end_fold(s->store, when, o);
    else
        store_record_end_index(s->store, o);
}

/* The next numbers: what the log forgets, when all who had higher ones are
 * gone and cleaned away, must not be given out again. */
static void counters_write(struct session_server *s, enum write how)
{
    struct mqtt_bytes none = {NULL, 0};
    store_record_begin(s->store, "counters");
    store_record_number(s->store, "next-session", s->next_session);
    store_record_number(s->store, "next-message", s->next_message);
    record_finish(s, how, STORE_LATER, &s->counters, none);
}

static void session_write_will(struct session_server *s, const struct will *w)
{
    store_record_number(s->store, "will-qos", w->qos);
    store_record_number(s->store, "will-retain", w->retain);
    store_record_number(s->store, "will-delay", w->delay);
    if (w->has_expiry)
        store_record_number(s->store, "will-expiry", w->expiry);
    if (w->due != 0)
        store_record_number(s->store, "will-due", w->due);
}

static void session_write(struct session_server *s, struct session *session,
                          enum write how, enum store_when when)
{
    if (!session->durable)
        return;
    store_record_begin(s->store, "session");
    store_record_number(s->store, "id", session->id);
    store_record_text(s->store, "client", session->client.p,
                      session->client.n);
    store_record_number(s->store, "expiry", session->expiry);
    if (session->link == NULL)
        store_record_number(s->store, "offline", session->offline);
    for (uint32_t i = 0; i < session->rx_n; i++)
        store_record_number(s->store, "rx", session->rx[i].packet_id);
    if (session->will.body.p != NULL)
        session_write_will(s, &session->will);
    record_finish(s, how, when, &session->object,
                  bytes_of(&session->will.body));
}

static void sub_write(struct session_server *s, struct sub *sub,
                      enum write how, enum store_when when)
{
    struct mqtt_bytes none = {NULL, 0};
    if (!sub->session->durable)
        return;
    store_record_begin(s->store, "sub");
    store_record_number(s->store, "session", sub->session->id);
    store_record_text(s->store, "filter", sub->filter, sub->n);
    store_record_number(s->store, "qos", sub->qos);
    store_record_number(s->store, "nl", sub->no_local);
    store_record_number(s->store, "rap", sub->retain_as_published);
    store_record_number(s->store, "rh", sub->retain_handling);
    store_record_number(s->store, "id", sub->id);
    record_finish(s, how, when, &sub->object, none);
}

static void via_write(struct session_server *s, uint32_t slot)
{
    struct buf text = {0};
    char number[16];
    if (slot == 0) {
        store_record_text(s->store, "via", "-", 1);
        return;
    }
    const struct via *v = s->vias.at[slot];
    for (uint32_t i = 0; i < v->count; i++) {
        snprintf(number, sizeof number, i > 0 ? ",%lu" : "%lu",
                 (unsigned long)v->ids[i]);
        buf_text(&text, number);
    }
    if (v->share_n > 0) {
        buf_text(&text, ";");
        buf_add(&text, v->share, v->share_n);
    }
    store_record_text(s->store, "via", text.p, text.n);
    buf_free(&text);
}

/* Writes one receiver as a `to` field, after a `via` field if it came about
 * in another way than the one before it (*via). */
static void receiver_write(struct session_server *s, struct receiver *r,
                           uint32_t *via)
{
    static const char letters[] = "-qsr-"; /* by enum stage */
    char text[80];
    const struct session *session = session_at(s, r->session);
    if (r->via != *via)
        via_write(s, r->via);
    *via = r->via;
    int n = snprintf(text, sizeof text, "%llu:%lu:%u:%u:%c:%u",
                     (unsigned long long)session->id, (unsigned long)r->place,
                     (unsigned)r->qos, (unsigned)r->retain, letters[r->stage],
                     (unsigned)r->packet_id);
    store_record_text(s->store, "to", text, (size_t)n);
    r->stored = 1;
}

static int receiver_waiting(const struct receiver *r)
{
    return r->stage != STAGE_FREE && r->stage != STAGE_GONE;
}

/* `topic` is the message's, for the reader and for retained messages. */
static void message_write(struct session_server *s, struct message *m,
                          enum write how, enum store_when when,
                          struct mqtt_bytes topic, struct mqtt_bytes body)
{
    uint32_t via = 0;
    store_record_begin(s->store, "message");
    store_record_number(s->store, "seq", m->seq);
    store_record_number(s->store, "at", m->at);
    if (m->expiry.at != 0)
        store_record_number(s->store, "expires", m->expiry.at);
    store_record_number(s->store, "qos", m->qos);
    store_record_text(s->store, "topic", topic.p, topic.n);
    if (m->retained_at != NULL) {
        store_record_number(s->store, "retain", 1);
        if (m->from.n > 0)
            store_record_text(s->store, "from", m->from.p, m->from.n);
    }
    for (uint32_t i = 0; i < m->to_n; i++) {
        struct receiver *r = &m->to[i];
        /* the index holds what the log holds, and no more */
        if (receiver_waiting(r) && session_at(s, r->session)->durable &&
            (how != WRITE_INDEX || r->stored))
            receiver_write(s, r, &via);
    }
    record_finish(s, how, when, &m->object, body);
}

/* A note about one delivery; none if the ledger does not know of it. */
static void delivery_note(struct session_server *s, const char *kind,
                          const struct receiver *r, enum store_when when)
{
    const struct session *session = session_at(s, r->session);
    if (!r->stored || !session->durable)
        return;
    store_record_begin(s->store, kind);
    store_record_number(s->store, "s", session->id);
    store_record_number(s->store, "n", r->place);
    if (r->stage == STAGE_SENT && r->packet_id != 0)
        store_record_number(s->store, "id", r->packet_id);
    store_record_end(s->store, when);
}

/* A note about a session: `end`, `rx`, `rel`. */
static void session_note(struct session_server *s, const char *kind,
                         const struct session *session, uint16_t packet_id,
                         enum store_when when)
{
    if (!session->durable)
        return;
    store_record_begin(s->store, kind);
    store_record_number(s->store, "session", session->id);
    if (packet_id != 0)
        store_record_number(s->store, "id", packet_id);
    store_record_end(s->store, when);
}

/* ======================================================================== */
/* 9  deliveries                                                            */
/* ======================================================================== */

static void message_check(struct session_server *s, struct message *m);

static struct receiver *entry_receiver(const struct session_server *s,
                                       struct entry e)
{
    return &message_at(s, e.message)->to[e.receiver];
}

/* A free receiver of the message; its index. */
static uint32_t receiver_take(struct message *m)
{
    m->used++;
    if (m->spare != 0) {
        uint32_t i = m->spare - 1;
        m->spare = m->to[i].place;
        return i;
    }
    if (m->to_n == m->to_cap) {
        uint32_t cap = m->to_cap == 0 ? 1 : m->to_cap * 2;
        if (cap == 1) {
            m->to = &m->one;
        } else if (m->to == &m->one) {
            m->to = mem_grow(NULL, cap * sizeof *m->to);
            m->to[0] = m->one;
        } else {
            m->to = mem_grow(m->to, cap * sizeof *m->to);
        }
        m->to_cap = cap;
    }
    return m->to_n++;
}

static void receiver_give(struct session_server *s, struct message *m,
                          uint32_t i)
{
    memset(&m->to[i], 0, sizeof m->to[i]);
    m->to[i].place = m->spare;
    m->spare = i + 1;
    m->used--;
    message_check(s, m);
}

static struct entry *queue_entry(const struct queue *q, uint32_t i)
{
    return &q->ring[(q->head + i) & (q->size - 1)];
}

static void queue_push(struct queue *q, struct entry e)
{
    if (q->n == q->size) {
        uint32_t size = q->size == 0 ? 4 : q->size * 2;
        struct entry *ring = mem_grow(NULL, size * sizeof *ring);
        for (uint32_t i = 0; i < q->n; i++)
            ring[i] = *queue_entry(q, i);
        free(q->ring);
        q->ring = ring;
        q->size = size;
        q->head = 0;
    }
    *queue_entry(q, q->n++) = e;
}

static struct entry queue_pop(struct queue *q)
{
    struct entry e = *queue_entry(q, 0);
    q->head = (q->head + 1) & (q->size - 1);
    if (--q->n == 0) {
        free(q->ring);
        memset(q, 0, sizeof *q);
    }
    return e;
}

/* Takes the entries of GONE deliveries out once they are the greater part,
 * so that short-lived messages do not pile up for a client long away. */
static void queue_tidy(struct session_server *s, struct session *session)
{
    struct queue old = session->queue;
    if (session->gone < 32 || session->gone * 2 < old.n)
        return;
    memset(&session->queue, 0, sizeof session->queue);
    for (uint32_t i = 0; i < old.n; i++) {
        struct entry e = *queue_entry(&old, i);
        if (entry_receiver(s, e)->stage == STAGE_GONE)
            receiver_give(s, message_at(s, e.message), e.receiver);
        else
            queue_push(&session->queue, e);
    }
    session->gone = 0;
    free(old.ring);
}

/* Takes the entries of GONE deliveries off the queue's front, so that its
 * first entry tells what comes next and how old it is. */
static void queue_trim(struct session_server *s, struct session *session)
{
    while (session->queue.n > 0) {
        struct entry e = *queue_entry(&session->queue, 0);
        if (entry_receiver(s, e)->stage != STAGE_GONE)
            return;
        queue_pop(&session->queue);
        session->gone--;
        receiver_give(s, message_at(s, e.message), e.receiver);
    }
}

/* Where a Packet Identifier stands, or would stand, among n structures of
 * `size` bytes that begin with one each, in rising order. */
static uint32_t packet_id_place(const void *first, uint32_t n, size_t size,
                                uint16_t packet_id)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        uint16_t id;
        memcpy(&id, (const uint8_t *)first + mid * size, sizeof id);
        if (id < packet_id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static uint32_t flight_place(const struct session *session, uint16_t packet_id)
{
    return packet_id_place(session->flights, session->flight_n,
                           sizeof *session->flights, packet_id);
}

static struct flight *flight_find(const struct session *session,
                                  uint16_t packet_id)
{
    uint32_t i = flight_place(session, packet_id);
    if (i == session->flight_n || session->flights[i].packet_id != packet_id)
        return NULL;
    return &session->flights[i];
}

static struct flight *flight_add(struct session *session, struct entry e,
                                 uint16_t packet_id, uint8_t here)
{
    session->flights = array_room(session->flights, session->flight_n,
                                  &session->flight_cap,
                                  sizeof *session->flights);
    uint32_t i = flight_place(session, packet_id);
    struct flight *f = &session->flights[i];
    memmove(f + 1, f, (session->flight_n - i) * sizeof *f);
    f->entry = e;
    f->packet_id = packet_id;
    f->here = here;
    session->flight_n++;
    return f;
}

static void flight_del(struct session *session, struct flight *f)
{
    uint32_t i = (uint32_t)(f - session->flights);
    session->flight_n--;
    memmove(f, f + 1, (session->flight_n - i) * sizeof *f);
}

/* A Packet Identifier that no delivery to this client uses [MQTT-2.2.1-4]
 * [MQTT-4.3.2-1] [MQTT-4.3.3-1].  There is one: at most 65,535 are given out
 * at a time, and the caller has seen that the window has room. */
static uint16_t packet_id_take(struct session *session)
{
    assert(session->flight_n < 65535);
    do {
        session->packet_id = session->packet_id == 65535
                                 ? 1
                                 : (uint16_t)(session->packet_id + 1);
    } while (flight_find(session, session->packet_id) != NULL);
    return session->packet_id;
}

/* The session has something to do in this turn's settling. */
static void session_wake(struct session_server *s, struct session *session)
{
    if (!session->dirty && session->link != NULL) {
        session->dirty = 1;
        s->dirty = array_room(s->dirty, s->dirty_n, &s->dirty_cap,
                              sizeof *s->dirty);
        s->dirty[s->dirty_n++] = session->slot;
    }
}

/* Adds a receiver at the end of the session's queue. Takes over the
 * reference to via.  The record that stores it is the caller's. */
static struct receiver *delivery_add(struct session_server *s,
                                     struct message *m,
                                     struct session *session, uint8_t qos,
                                     int retain, uint32_t via)
{
    queue_tidy(s, session);
    struct entry e = {m->slot, receiver_take(m)};
    struct receiver *r = &m->to[e.receiver];
    memset(r, 0, sizeof *r);
    r->session = session->slot;
    r->place = session->place++;
    r->via = via;
    r->stage = STAGE_QUEUED;
    r->qos = qos & 3u;
    r->retain = retain != 0;
    m->live++;
    s->figures.deliveries++;
    session->queued[r->qos]++;
    queue_push(&session->queue, e);
    session_wake(s, session);
    return r;
}

static int session_full(const struct session_server *s,
                        const struct session *session)
{
    return session->queue.n - session->gone >= s->opt.queue_max;
}

/* Ends a delivery whose entry its owner has already let go of. */
static void delivery_end(struct session_server *s, struct entry e,
                         enum store_when when)
{
    struct message *m = message_at(s, e.message);
    struct receiver *r = &m->to[e.receiver];
    r->packet_id = 0;
    delivery_note(s, "done", r, when);
    via_give(s, r->via);
    m->live--;
    s->figures.deliveries--;
    receiver_give(s, m, e.receiver);
}

/* Takes the oldest queued delivery out of the queue. */
static struct entry delivery_pop(struct session_server *s,
                                 struct session *session)
{
    struct entry e = queue_pop(&session->queue);
    session->queued[entry_receiver(s, e)->qos]--;
    queue_trim(s, session);
    return e;
}

/* ======================================================================== */
/* 10  messages                                                             */
/* ======================================================================== */

static struct message *message_new(struct session_server *s, uint64_t seq)
{
    struct message *m = mem_new(sizeof *m);
    m->object.kind = OBJECT_MESSAGE;
    m->expiry.kind = TIMER_MESSAGE;
    m->seq = seq;
    m->at = s->now;
    m->slot = slots_take(&s->messages, m);
    s->figures.messages++;
    return m;
}

static void message_forget(struct session_server *s, struct message *m)
{
    s->ram_bytes -= m->ram.n;
    text_free(&m->ram);
}

static void message_free(struct session_server *s, struct message *m)
{
    timer_stop(s, &m->expiry);
    slots_give(&s->messages, m->slot);
    if (m->to != &m->one)
        free(m->to);
    message_forget(s, m);
    text_free(&m->from);
    free(m);
}

/* Bytes of its PUBLISH packet. */
static size_t message_bytes(const struct message *m)
{
    return m->object.segment != 0 ? m->object.body_len : m->ram.n;
}

/* Lets go of a message that nobody is to get any more.  Its ledger record
 * dies without a note: what ended the last delivery says it. */
static void message_check(struct session_server *s, struct message *m)
{
    if (m->live > 0 || m->retained_at != NULL)
        return;
    if (!m->dead) {
        m->dead = 1;
        s->figures.messages--;
        s->figures.message_bytes -= message_bytes(m);
        store_object_drop(s->store, &m->object);
        message_forget(s, m);
    }
    if (m->used == 0)
        message_free(s, m);
}

/* The PUBLISH packet of an object in the ledger, opened.  -1: the ledger
 * cannot give it back; store_error() says why. */
static int body_open(const struct session_server *s,
                     const struct store_object *o, struct mqtt_packet *view,
                     struct mqtt_bytes *body)
{
    body->p = store_body(s->store, o);
    body->n = o->body_len;
    if (body->p == NULL)
        return -1;
    if (mqtt_publish_open(view, body->p, body->n) == 0)
        return 0;
    store_body_refuse(s->store, o, "the body here is no PUBLISH packet");
    return -1;
}

/* The PUBLISH packet, from memory or from the ledger, opened.  -1: the
 * ledger cannot give it back; store_commit() will say so. */
static int message_open(const struct session_server *s,
                        const struct message *m, struct mqtt_packet *view,
                        struct mqtt_bytes *body)
{
    if (m->object.segment != 0)
        return body_open(s, &m->object, view, body);
    *body = bytes_of(&m->ram);
    return body->p == NULL ? -1 : mqtt_publish_open(view, body->p, body->n);
}

static int message_wanted_durably(const struct session_server *s,
                                  const struct message *m)
{
    if (m->retained_at != NULL)
        return 1;
    for (uint32_t i = 0; i < m->to_n; i++) {
        if (receiver_waiting(&m->to[i]) &&
            session_at(s, m->to[i].session)->durable)
            return 1;
    }
    return 0;
}

static void message_remember(struct session_server *s, struct message *m,
                             struct mqtt_bytes body)
{
    m->ram = text_copy(body);
    s->ram_bytes += body.n;
}

/* Puts a new message where it belongs: into the ledger when a durable
 * session waits for it or when it is retained, else into memory. */
static void message_keep(struct session_server *s, struct message *m,
                         enum store_when when, struct mqtt_bytes topic,
                         struct mqtt_bytes body)
{
    s->figures.message_bytes += body.n;
    if (message_wanted_durably(s, m))
        message_write(s, m, WRITE_NEW, when, topic, body);
    else
        message_remember(s, m, body);
}

/* A receiver was added to a message that exists already. */
static void message_note_receiver(struct session_server *s, struct message *m,
                                  struct receiver *r, enum store_when when)
{
    struct mqtt_packet view;
    struct mqtt_bytes body;
    uint32_t via = 0;
    if (!session_at(s, r->session)->durable)
        return;
    if (m->object.segment != 0) {
        store_record_begin(s->store, "deliver");
        store_record_number(s->store, "seq", m->seq);
        receiver_write(s, r, &via);
        store_record_end(s->store, when);
    } else if (message_open(s, m, &view, &body) == 0) {
        message_write(s, m, WRITE_NEW, when, view.publish.topic, body);
        message_forget(s, m);
    }
}

/* Takes a retained message off its topic; the caller tidies the topic and
 * looks whether the message is still wanted. */
static struct topic *retained_detach(struct session_server *s,
                                     struct message *m)
{
    struct topic *t = m->retained_at;
    t->retained = NULL;
    m->retained_at = NULL;
    s->figures.retained--;
    for (struct topic *up = t; up != NULL; up = up->parent)
        up->kept--;
    text_free(&m->from);
    return t;
}

static void log_retained_expired(struct session_server *s,
                                 const struct message *m)
{
    struct text topic = topic_name(m->retained_at);
    log_begin_client(s, bytes_of(&m->from), NULL);
    buf_text(&s->log, "its retained message on ");
    name_add(&s->log, bytes_of(&topic));
    log_end(s, " discarded: its Message Expiry Interval passed "
               "[MQTT-3.3.2-5]");
    text_free(&topic);
}

/* The Message Expiry Interval has passed: whoever was not sent it yet does
 * not get it [MQTT-3.3.2-5]; what was sent is seen through [MQTT-4.3.3-7].
 * No note is needed: the record says when, and replay expires it again. */
static void message_expire(struct session_server *s, struct message *m)
{
    struct mqtt_packet view;
    struct mqtt_bytes body;
    int open = m->live > 0 && message_open(s, m, &view, &body) == 0;
    for (uint32_t i = 0; i < m->to_n; i++) {
        struct receiver *r = &m->to[i];
        if (r->stage != STAGE_QUEUED)
            continue;
        struct session *session = session_at(s, r->session);
        if (open)
            log_drop(s, session, view.publish.topic, DROP_EXPIRED);
        session->queued[r->qos]--;
        session->gone++;
        r->stage = STAGE_GONE;
        via_give(s, r->via);
        m->live--;
        s->figures.deliveries--;
    }
    if (m->retained_at != NULL) {
        log_retained_expired(s, m);
        topic_tidy(s, retained_detach(s, m));
    }
    m->used++; /* until all its queues have been trimmed */
    for (uint32_t i = 0; i < m->to_n; i++) {
        if (m->to[i].stage == STAGE_GONE)
            queue_trim(s, session_at(s, m->to[i].session));
    }
    m->used--;
    message_check(s, m);
}

/* ======================================================================== */
/* 11  window and sending                                                   */
/* ======================================================================== */

/* Puts a packet into the link's output.  What the client's Maximum Packet
 * Size leaves no room for is left out: first the Reason String (there are no
 * User Properties of our own), then the packet itself [MQTT-3.1.2-24]
 * [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.6.2-2]
 * [MQTT-3.7.2-2] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3].
 * 1 = it is in the output. */
static int link_send(struct session_link *link, struct mqtt_packet *p)
{
    size_t guess = 128 + p->publish.topic.n + p->publish.payload.n +
                   p->props.verbatim.n + p->list.n + 5 * p->props.id_count;
    uint8_t *to = buf_room(&link->out, guess);
    size_t n = mqtt_packet_encode(p, to, guess);
    if (n > link->packet_max && p->type != MQTT_PUBLISH) {
        p->props.has &= ~((uint64_t)1 << MQTT_REASON_STRING);
        n = mqtt_packet_encode(p, to, guess);
    }
    if (n == 0 || n > link->packet_max)
        return 0;
    if (n > guess) {
        to = buf_room(&link->out, n);
        n = mqtt_packet_encode(p, to, n);
    }
    link->out.n += n;
    link->server->out_bytes += n;
    count_packet(link->server->figures.sent, p,
                 &link->server->figures.publish_bytes_sent);
    if (p->reason >= 0x80)
        link->server->figures.refused[p->reason]++;
    trace_packet(link, MQTT_FROM_SERVER, p, to, n);
    return 1;
}

/* PUBACK, PUBREC, PUBREL, PUBCOMP; the client's Packet Identifier comes back
 * [MQTT-2.2.1-5].  why: a Reason String or NULL; only a client that did not
 * ask for silence gets one [MQTT-3.1.2-29]. */
static void link_ack(struct session_link *link, uint8_t type,
                     uint16_t packet_id, uint8_t reason, const char *why)
{
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = type;
    p.packet_id = packet_id;
    p.reason = reason;
    if (why != NULL && link->problem_information) {
        p.props.has |= (uint64_t)1 << MQTT_REASON_STRING;
        p.props.reason_string = bytes_literal(why);
    }
    link_send(link, &p);
}

/* The whole seconds until then, of the Message Expiry Interval that is left:
 * what the message has waited is taken off [MQTT-3.3.2-6]. */
static uint32_t seconds_left(uint64_t expires, uint64_t now)
{
    uint64_t ms = expires > now ? expires - now : 0;
    return (uint32_t)((ms + 999) / 1000);
}

/* Uses a Topic Alias for the packet if the client takes any; returns the
 * alias whose topic is new to the client, or 0.  An alias belongs to the
 * topics that hash to it and always means the last one it was sent with
 * [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-11]. */
static uint16_t alias_use(struct session_link *link, struct mqtt_packet *p)
{
    if (link->alias_out_n == 0 || p->publish.topic.n > ALIAS_TOPIC_MAX)
        return 0;
    uint64_t hash = hash_bytes(link->server, p->publish.topic);
    uint16_t alias = (uint16_t)(hash % link->alias_out_n + 1);
    p->props.has |= (uint64_t)1 << MQTT_TOPIC_ALIAS;
    p->props.topic_alias = alias;
    if (!bytes_same(bytes_of(&link->alias_out[alias]), p->publish.topic))
        return alias;
    p->publish.topic.n = 0;
    return 0;
}

/* Sends one PUBLISH.  `view` is the opened body, whose properties go out as
 * they came in, in their order [MQTT-3.3.2-4] [MQTT-3.3.2-15]
 * [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20].
 * 0: it is too large for this client [MQTT-3.1.2-24]. */
static int link_deliver(struct session_link *link,
                        const struct mqtt_packet *view,
                        const struct receiver *r, int dup, uint64_t expires)
{
    struct session_server *s = link->server;
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = MQTT_PUBLISH;
    p.publish = view->publish;
    p.publish.qos = r->qos;
    p.publish.retain = r->retain;
    p.publish.dup = dup && r->qos > 0; /* [MQTT-3.3.1-2] */
    p.publish.packet_id = r->packet_id;
    p.props.verbatim = view->props.raw;
    if (expires != 0) {
        p.props.has |= (uint64_t)1 << MQTT_MESSAGE_EXPIRY_INTERVAL;
        p.props.message_expiry_interval = seconds_left(expires, s->now);
    }
    if (r->via != 0) { /* [MQTT-3.3.4-3] [MQTT-3.3.4-4] */
        const struct via *v = s->vias.at[r->via];
        p.props.ids = v->ids;
        p.props.id_count = v->count;
    }
    uint16_t alias = alias_use(link, &p);
    if (link_send(link, &p)) {
        if (alias != 0) {
            text_free(&link->alias_out[alias]);
            link->alias_out[alias] = text_copy(view->publish.topic);
        }
        return 1;
    }
    if (link->alias_out_n == 0)
        return 0;
    /* a Topic Name of one or two bytes is shorter than an alias */
    p.props.has &= ~((uint64_t)1 << MQTT_TOPIC_ALIAS);
    p.publish.topic = view->publish.topic;
    return link_send(link, &p);
}

/* Sends one delivery of a stored message and notes what that means.  -1: the
 * ledger failed.  0 and 1: done with it; 0 = it was too large and counts as
 * delivered [MQTT-3.1.2-25]. */
static int delivery_send(struct session_server *s, struct session *session,
                         struct entry e, int dup)
{
    struct message *m = message_at(s, e.message);
    struct mqtt_packet view;
    struct mqtt_bytes body;
    if (message_open(s, m, &view, &body) != 0)
        return -1;
    if (link_deliver(session->link, &view, entry_receiver(s, e), dup,
                     m->expiry.at))
        return 1;
    log_drop(s, session, view.publish.topic, DROP_TOO_LARGE);
    return 0;
}

/* Sends the oldest queued delivery.  0 = go on, -1 = stop: the window has no
 * room [MQTT-3.3.4-9] [MQTT-4.9.0-2], or the ledger failed. */
static int queue_send(struct session_server *s, struct session *session)
{
    struct session_link *link = session->link;
    struct entry e = *queue_entry(&session->queue, 0);
    struct receiver *r = entry_receiver(s, e);
    if (r->qos > 0 && link->flying >= link->window)
        return -1;
    if (r->qos > 0)
        r->packet_id = packet_id_take(session);
    int sent = delivery_send(s, session, e, 0);
    if (sent < 0)
        return -1;
    delivery_pop(s, session);
    if (sent == 0 || r->qos == 0) {
        /* a stored QoS 0 message comes once or not at all (4.3.1): its end
         * is synced before it leaves */
        delivery_end(s, e, r->qos == 0 ? STORE_NOW : STORE_LATER);
        return 0;
    }
    /* The id is in the ledger before the packet leaves: after a crash it
     * goes out again under this id only [MQTT-4.4.0-1]. */
    r->stage = STAGE_SENT;
    delivery_note(s, "send", r, STORE_NOW);
    flight_add(session, e, r->packet_id, 1)->order =
        ++link->publishes[r->qos - 1].sent;
    link->flying++;
    return 0;
}

/* Repeats the next PUBLISH that an earlier connection left open, with DUP
 * and its old id [MQTT-3.3.1-1] [MQTT-4.4.0-1].  0 = go on, -1 = stop. */
static int resend_next(struct session_server *s, struct session *session)
{
    struct session_link *link = session->link;
    /* Gone or `here`: the client answered the earlier PUBLISH meanwhile.  No
     * id is given out anew before this list has come to its end. */
    struct flight *f = flight_find(session, link->resend[link->resend_at]);
    if (f != NULL && f->here == 0) {
        struct entry e = f->entry;
        if (link->flying >= link->window)
            return -1;
        int sent = delivery_send(s, session, e, 1);
        if (sent < 0)
            return -1;
        if (sent == 0) {
            flight_del(session, f);
            delivery_end(s, e, STORE_LATER);
        } else {
            f->here = 1;
            f->order = ++link->publishes[entry_receiver(s, e)->qos - 1].sent;
            link->flying++;
        }
    }
    link->resend_at++;
    return 0;
}

/* May deliveries be put into this output?  Not while `high` bytes wait in it;
 * and while all outputs together are long, only if this one is empty. */
static int link_roomy(const struct session_link *link, size_t high)
{
    const struct session_server *s = link->server;
    return link->out.n < high &&
           (link->out.n == 0 || s->out_bytes < s->opt.memory_max);
}

/* Fills the client's window and our output with what waits for it. */
static void session_serve(struct session_server *s, struct session *session)
{
    struct session_link *link = session->link;
    while (link_roomy(link, s->opt.output_high)) {
        int stop = 1;
        if (link->resend_at < link->resend_n)
            stop = resend_next(s, session);
        else if (session->queue.n > 0)
            stop = queue_send(s, session);
        if (stop != 0)
            break;
    }
}

/* ======================================================================== */
/* 12  retained messages                                                    */
/* ======================================================================== */

/* Makes m the retained message of its topic, in place of any other
 * [MQTT-3.3.1-5]. */
static void retained_put(struct session_server *s, struct topic *t,
                         struct message *m)
{
    struct message *old = t->retained;
    if (old != NULL) {
        retained_detach(s, old);
        message_check(s, old);
    }
    t->retained = m;
    m->retained_at = t;
    s->figures.retained++;
    for (struct topic *up = t; up != NULL; up = up->parent)
        up->kept++;
}

/* An empty retained message came: the topic has none from now on
 * [MQTT-3.3.1-6] [MQTT-3.3.1-7]. */
static void retained_clear(struct session_server *s, struct mqtt_bytes topic)
{
    struct topic *t = topic_find(s, topic, 0);
    if (t == NULL || t->retained == NULL)
        return;
    store_record_begin(s->store, "clear");
    store_record_text(s->store, "topic", topic.p, topic.n);
    store_record_end(s->store, STORE_NOW);
    struct message *m = t->retained;
    topic_tidy(s, retained_detach(s, m));
    message_check(s, m);
}

/* Queues one retained message for a subscription.  RETAIN is 1: this copy is
 * sent because of a subscription (3.3.1.3). */
static void retained_send(struct session_server *s, struct sub *sub,
                          struct message *m)
{
    struct session *session = sub->session;
    struct mqtt_bytes none = {NULL, 0};
    uint8_t qos = m->qos < sub->qos ? m->qos : sub->qos;
    if (sub->no_local && bytes_same(bytes_of(&m->from),
                                    bytes_of(&session->client)))
        return; /* [MQTT-3.8.3-3] */
    uint32_t via = via_take(s, &sub->id, sub->id != 0, none);
    struct receiver *r = delivery_add(s, m, session, qos, 1, via);
    if (qos > 0)
        message_note_receiver(s, m, r, STORE_NOW);
}

/* Does a SUBSCRIBE bring retained messages, by its Retain Handling?  A shared
 * one never (4.8.2) [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]. */
static int retained_wanted(const struct sub *sub, int existed)
{
    return sub->share == NULL && sub->retain_handling != 2 &&
           !(sub->retain_handling == 1 && existed);
}

static void retained_send_all(struct session_server *s, struct sub *sub)
{
    struct mqtt_bytes filter = {sub->filter, sub->n};
    topic_match_retained(s, filter);
    for (size_t i = 0; i < s->found.n; i++) {
        if (session_full(s, sub->session)) {
            drop_count(s, DROP_QUEUE_FULL, s->found.n - i);
            log_begin(s, sub->session, sub->session->link);
            log_add(s, "retained messages for ");
            name_add(&s->log, filter);
            log_end(s, " discarded: the queue is full, %lu do not fit",
                    (unsigned long)(s->found.n - i));
            return;
        }
        retained_send(s, sub, s->found.at[i]);
    }
}

/* ======================================================================== */
/* 13  routing                                                              */
/* ======================================================================== */

/* The next in turn of the members that are connected or of those that are
 * away; `full` allows one whose queue has no room. */
static struct sub *share_next(const struct session_server *s, struct share *g,
                              int connected, int full,
                              const struct session *but)
{
    struct sub *first = g->turn[connected], *sub;
    if (first == NULL)
        first = g->subs[connected];
    sub = first;
    while (sub != NULL) {
        if (sub->session != but && (full || !session_full(s, sub->session))) {
            g->turn[connected] = sub->next;
            return sub;
        }
        sub = sub->next != NULL ? sub->next : g->subs[connected];
        if (sub == first)
            break;
    }
    return NULL;
}

/* The member of a Shared Subscription that gets the next message (4.8.2): a
 * connected one before those that are away, and one whose queue is full only
 * if all are. */
static struct sub *share_choose(const struct session_server *s,
                                struct share *g, const struct session *but)
{
    struct sub *sub = share_next(s, g, 1, 0, but);
    if (sub == NULL)
        sub = share_next(s, g, 0, 0, but);
    if (sub == NULL)
        sub = share_next(s, g, 1, 1, but);
    return sub != NULL ? sub : share_next(s, g, 0, 1, but);
}

static struct match *match_new(struct session_server *s,
                               struct session *session)
{
    if (s->match_n == s->match_cap) {
        s->match_cap = s->match_cap == 0 ? 16 : s->match_cap * 2;
        s->matches = mem_grow(s->matches, s->match_cap * sizeof *s->matches);
    }
    struct match *m = &s->matches[s->match_n++];
    memset(m, 0, sizeof *m);
    m->session = session;
    return m;
}

/* Adds what one subscription asks for to its session's match. */
static void match_add(struct session_server *s, struct match *m,
                      const struct sub *sub)
{
    if (sub->qos > m->qos) /* [MQTT-3.3.4-2] */
        m->qos = sub->qos;
    m->retain |= sub->retain_as_published;
    if (sub->id == 0)
        return;
    s->match_ids = array_room(s->match_ids, s->match_id_n, &s->match_id_cap,
                              sizeof *s->match_ids);
    s->match_ids[s->match_id_n].id = sub->id;
    s->match_ids[s->match_id_n].next = m->id;
    m->id = ++s->match_id_n;
}

static void match_topic(struct session_server *s, struct topic *t,
                        const struct session *from)
{
    for (struct sub *sub = t->subs; sub != NULL; sub = sub->next) {
        struct session *session = sub->session;
        if (sub->no_local && session == from)
            continue; /* [MQTT-3.8.3-3] */
        if (session->mark != s->mark) {
            session->mark = s->mark;
            session->match = (uint32_t)s->match_n;
            match_new(s, session);
        }
        match_add(s, &s->matches[session->match], sub);
    }
    for (struct share *g = t->shares; g != NULL; g = g->next) {
        struct sub *sub = share_choose(s, g, NULL);
        struct match *m = match_new(s, sub->session);
        m->shared = sub;
        match_add(s, m, sub);
    }
}

/* Fills s->matches: one entry for each session, however many of its
 * subscriptions match, and one for each Shared Subscription [MQTT-3.3.2-3]
 * [MQTT-4.7.3-4]. */
static void match_all(struct session_server *s, struct mqtt_bytes topic,
                      const struct session *from)
{
    s->match_n = 0;
    s->match_id_n = 0;
    s->mark++;
    topic_match_filters(s, topic);
    for (size_t i = 0; i < s->found.n; i++)
        match_topic(s, s->found.at[i], from);
}

/* The via set of a match; the caller owns the reference. */
static uint32_t match_via(struct session_server *s, const struct match *m)
{
    struct mqtt_bytes share = {NULL, 0};
    uint32_t few[8] = {0}, *ids = few, n = 0;
    for (uint32_t i = m->id; i != 0; i = s->match_ids[i - 1].next)
        n++;
    if (n > 8)
        ids = mem_grow(NULL, n * sizeof *ids);
    n = 0;
    for (uint32_t i = m->id; i != 0; i = s->match_ids[i - 1].next)
        ids[n++] = s->match_ids[i - 1].id;
    if (m->shared != NULL) {
        share.p = m->shared->filter;
        share.n = m->shared->n;
    }
    uint32_t via = via_take(s, ids, n, share);
    if (ids != few)
        free(ids);
    return via;
}

/* Encodes the message once, as it is stored and as every receiver gets it
 * but for the fields that are the receiver's own. */
static struct mqtt_bytes inbound_encode(struct session_server *s,
                                        const struct inbound *in)
{
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = MQTT_PUBLISH;
    p.publish.topic = in->topic;
    p.publish.payload = in->payload;
    p.props.verbatim = in->properties;
    size_t n = in->topic.n + in->properties.n + in->payload.n + 64;
    s->body.n = 0;
    s->body.n = mqtt_packet_encode(&p, buf_room(&s->body, n), n);
    struct mqtt_bytes body = {s->body.p, s->body.n};
    return body;
}

/* Hands a QoS 0 message to a connected client without queueing it, unless
 * older QoS 0 messages still wait [MQTT-4.6.0-5]. 1 = it is dealt with. */
static int match_send_now(struct session_server *s, const struct match *m,
                          const struct inbound *in, uint8_t qos,
                          const struct mqtt_packet *view)
{
    struct session_link *link = m->session->link;
    struct receiver r;
    if (qos > 0 || link == NULL || m->session->queued[0] > 0)
        return 0;
    if (!link_roomy(link, QOS0_TURNS * (size_t)s->opt.output_high)) {
        log_drop(s, m->session, in->topic, DROP_SLOW_READER);
        return 1;
    }
    memset(&r, 0, sizeof r);
    r.via = match_via(s, m);
    r.retain = m->retain && in->retain;
    if (!link_deliver(link, view, &r, 0, in->expires))
        log_drop(s, m->session, in->topic, DROP_TOO_LARGE);
    via_give(s, r.via);
    return 1;
}

/* May this delivery be queued?  Says why not. */
static int match_queueable(struct session_server *s, const struct match *m,
                           const struct inbound *in, uint8_t qos)
{
    const struct session *session = m->session;
    enum session_drop why = DROP_KINDS;
    if (session_full(s, session))
        why = DROP_QUEUE_FULL;
    else if (qos == 0 && session->durable && store_full(s->store))
        why = DROP_DISK_FULL;
    else if (!session->durable && s->ram_bytes >= s->opt.memory_max)
        why = DROP_MEMORY_FULL;
    if (why != DROP_KINDS)
        log_drop(s, session, in->topic, why);
    return why == DROP_KINDS;
}

/* Routes a message to all who subscribed, and keeps it as retained message
 * if it says so.  Returns how many it went to.  When this function returns
 * the records stand in the turn's batch: an acknowledgement may be put into
 * the output [MQTT-4.5.0-1]. */
static size_t message_route(struct session_server *s, const struct inbound *in)
{
    struct mqtt_bytes body = inbound_encode(s, in);
    struct mqtt_packet view;
    struct message *msg = NULL;
    int opened = mqtt_publish_open(&view, body.p, body.n);
    enum store_when when = STORE_SOON;
    assert(opened == 0);
    (void)opened;
    match_all(s, in->topic, in->from);
    for (size_t i = 0; i < s->match_n; i++) {
        const struct match *m = &s->matches[i];
        uint8_t qos = m->qos < in->qos ? m->qos : in->qos; /* [MQTT-3.8.4-8] */
        if (match_send_now(s, m, in, qos, &view) ||
            !match_queueable(s, m, in, qos))
            continue;
        if (msg == NULL)
            msg = message_new(s, s->next_message++);
        /* [MQTT-3.3.1-12] [MQTT-3.3.1-13] */
        delivery_add(s, msg, m->session, qos, m->retain && in->retain,
                     match_via(s, m));
        if (qos > 0)
            when = STORE_NOW;
    }
    size_t matched = s->match_n;
    s->work += matched;
    if (in->retain && in->payload.n == 0)
        retained_clear(s, in->topic);
    if (in->retain && in->payload.n > 0) {
        if (msg == NULL)
            msg = message_new(s, s->next_message++);
        retained_put(s, topic_find(s, in->topic, 1), msg);
        if (in->from != NULL)
            msg->from = text_copy(bytes_of(&in->from->client));
        when = STORE_NOW;
    }
    if (msg != NULL) {
        msg->qos = in->qos;
        if (in->expires != 0)
            timer_set(s, &msg->expiry, in->expires);
        message_keep(s, msg, when, in->topic, body);
    }
    return matched;
}

/* ======================================================================== */
/* 14  $SYS topics                                                          */
/* ======================================================================== */

/* What the server tells of itself; the standard leaves topics that begin
 * with $ to it (4.7.2).  They look like retained messages that change every
 * opt.sys_every seconds, but they are made when they are sent: always QoS 0,
 * never queued and never in the ledger. */

#define SYS_STEP 5000 /* ms between two steps of the averages */
#define SYS_UNTOLD UINT64_MAX /* a value that the next round tells anyhow */

#define SYS_TOPIC(name, value) {"$SYS/broker/" name, value}
#define SYS_TOPICS_LOAD(name, i)                                               \
    SYS_TOPIC("load/" name "/1min", SYS_LOAD + (i)*SYS_WINDOWS),               \
        SYS_TOPIC("load/" name "/5min", SYS_LOAD + (i)*SYS_WINDOWS + 1),       \
        SYS_TOPIC("load/" name "/15min", SYS_LOAD + (i)*SYS_WINDOWS + 2)

/* The names are those of mosquitto(8), for dashboards know them. */
static const struct sys_topic {
    const char *name;
    int value; /* an enum sys_value */
} sys_topics[] = {
    SYS_TOPIC("version", SYS_VERSION),
    SYS_TOPIC("uptime", SYS_UPTIME),
    SYS_TOPIC("clients/connected", SYS_CONNECTED),
    SYS_TOPIC("clients/active", SYS_CONNECTED),
    SYS_TOPIC("clients/disconnected", SYS_DISCONNECTED),
    SYS_TOPIC("clients/inactive", SYS_DISCONNECTED),
    SYS_TOPIC("clients/total", SYS_TOTAL),
    SYS_TOPIC("clients/maximum", SYS_MAXIMUM),
    SYS_TOPIC("clients/expired", SYS_EXPIRED),
    SYS_TOPIC("messages/received", SYS_RECEIVED),
    SYS_TOPIC("messages/sent", SYS_SENT),
    SYS_TOPIC("messages/stored", SYS_MESSAGES),
    SYS_TOPIC("publish/messages/received", SYS_PUBLISHES_RECEIVED),
    SYS_TOPIC("publish/messages/sent", SYS_PUBLISHES_SENT),
    SYS_TOPIC("publish/messages/dropped", SYS_DROPPED),
    SYS_TOPIC("publish/bytes/received", SYS_PAYLOAD_RECEIVED),
    SYS_TOPIC("publish/bytes/sent", SYS_PAYLOAD_SENT),
    SYS_TOPIC("bytes/received", SYS_BYTES_RECEIVED),
    SYS_TOPIC("bytes/sent", SYS_BYTES_SENT),
    SYS_TOPIC("subscriptions/count", SYS_SUBSCRIPTIONS),
    SYS_TOPIC("shared_subscriptions/count", SYS_SHARED),
    SYS_TOPIC("retained messages/count", SYS_RETAINED),
    SYS_TOPIC("store/messages/count", SYS_MESSAGES),
    SYS_TOPIC("store/messages/bytes", SYS_MESSAGE_BYTES),
    SYS_TOPICS_LOAD("messages/received", 0),
    SYS_TOPICS_LOAD("messages/sent", 1),
    SYS_TOPICS_LOAD("publish/received", 2),
    SYS_TOPICS_LOAD("publish/sent", 3),
    SYS_TOPICS_LOAD("publish/dropped", 4),
    SYS_TOPICS_LOAD("bytes/received", 5),
    SYS_TOPICS_LOAD("bytes/sent", 6),
    SYS_TOPICS_LOAD("connections", 7),
    SYS_TOPICS_LOAD("sockets", 8),
};

#define SYS_TOPICS (sizeof sys_topics / sizeof sys_topics[0])

/* The counters that the averages are of, in the order above. */
static const enum sys_value sys_loads[SYS_LOADS] = {
    SYS_RECEIVED,       SYS_SENT,       SYS_PUBLISHES_RECEIVED,
    SYS_PUBLISHES_SENT, SYS_DROPPED,    SYS_BYTES_RECEIVED,
    SYS_BYTES_SENT,     SYS_CONNECTS,   SYS_SOCKETS};

/* What a step leaves of the average so far, times 2^32: exp(-5 s / window) for
 * windows of 1, 5 and 15 minutes. */
static const uint64_t sys_keep[SYS_WINDOWS] = {3951560672u, 4223977731u,
                                               4271172524u};

/* x times part / 2^32, where part is less than that. */
static uint64_t sys_scale(uint64_t x, uint64_t part)
{
    return (x >> 32) * part + ((x & UINT32_MAX) * part >> 32);
}

/* The average after n steps in which nothing came: x * (keep / 2^32)^n. */
static uint64_t sys_fade(uint64_t x, uint64_t keep, uint64_t n)
{
    for (; n > 0; n /= 2) {
        if (n % 2 == 1)
            x = sys_scale(x, keep);
        keep = sys_scale(keep, keep);
    }
    return x;
}

static uint64_t sys_sum(const uint64_t by_type[16])
{
    uint64_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += by_type[i];
    return sum;
}

static void sys_measure(const struct session_server *s,
                        uint64_t value[SYS_VALUES])
{
    const struct session_figures *f = &s->figures;
    value[SYS_VERSION] = 0;
    value[SYS_UPTIME] = (s->now - s->sys.opened) / 1000;
    value[SYS_CONNECTED] = f->online;
    value[SYS_DISCONNECTED] = f->sessions - f->online;
    value[SYS_TOTAL] = f->sessions;
    value[SYS_MAXIMUM] = f->online_max;
    value[SYS_EXPIRED] = f->expired;
    value[SYS_RECEIVED] = sys_sum(f->received);
    value[SYS_SENT] = sys_sum(f->sent);
    value[SYS_CONNECTS] = f->received[MQTT_CONNECT];
    value[SYS_PUBLISHES_RECEIVED] = f->received[MQTT_PUBLISH];
    value[SYS_PUBLISHES_SENT] = f->sent[MQTT_PUBLISH];
    value[SYS_DROPPED] = f->dropped;
    value[SYS_PAYLOAD_RECEIVED] = f->publish_bytes_received;
    value[SYS_PAYLOAD_SENT] = f->publish_bytes_sent;
    value[SYS_BYTES_RECEIVED] = f->bytes_received;
    value[SYS_BYTES_SENT] = f->bytes_sent;
    value[SYS_SOCKETS] = f->links;
    value[SYS_SUBSCRIPTIONS] = f->subscriptions;
    value[SYS_SHARED] = s->shares.count;
    value[SYS_RETAINED] = f->retained;
    value[SYS_MESSAGES] = f->messages;
    value[SYS_MESSAGE_BYTES] = f->message_bytes;
    for (int i = 0; i < SYS_LOADS * SYS_WINDOWS; i++) {
        uint64_t load = s->sys.load[i / SYS_WINDOWS][i % SYS_WINDOWS];
        value[SYS_LOAD + i] = (load * 100 + (1 << 15)) >> 16; /* rounded */
    }
}

/* Carries the averages on to now.  Called before anything is counted, so what
 * was counted since the last step came in the first of those that are over,
 * and nothing in the others, however many. */
static void sys_step(struct session_server *s)
{
    struct sys *y = &s->sys;
    uint64_t value[SYS_VALUES];
    if (s->opt.sys_every == 0 || s->now < y->step)
        return;
    uint64_t empty = (s->now - y->step) / SYS_STEP;
    y->step += (empty + 1) * SYS_STEP;
    sys_measure(s, value);
    for (int i = 0; i < SYS_LOADS; i++) {
        uint64_t came = value[sys_loads[i]] - y->before[i];
        uint64_t rate = (came * (60000 / SYS_STEP)) << 16;
        y->before[i] = value[sys_loads[i]];
        for (int w = 0; w < SYS_WINDOWS; w++) {
            uint64_t keep = sys_keep[w], *load = &y->load[i][w];
            *load = sys_scale(*load, keep) + rate - sys_scale(rate, keep);
            *load = sys_fade(*load, keep, empty);
        }
    }
}

/* A value as its topic's payload: a view into text, or the version. */
static struct mqtt_bytes sys_print(const struct session_server *s, int which,
                                   uint64_t value, char text[40])
{
    unsigned long long v = value;
    if (which == SYS_VERSION)
        return bytes_literal(s->opt.version);
    if (which >= SYS_LOAD)
        snprintf(text, 40, "%llu.%02llu", v / 100, v % 100);
    else
        snprintf(text, 40, which == SYS_UPTIME ? "%llu seconds" : "%llu", v);
    return bytes_literal(text);
}

/* The link is told all values in the next round: it missed some. */
static void sys_owe(struct session_link *link)
{
    struct sys *y = &link->server->sys;
    link->sys_owed = y->owed = y->round + 1;
}

/* Sends a value at QoS 0.  A link that has much to read already is left alone
 * until the next round, which tells the newest.  What is larger than the
 * client's Maximum Packet Size is not sent [MQTT-3.1.2-25].  0: no room. */
static int sys_send(struct session_link *link, const struct sys_topic *topic,
                    uint64_t value, int retain, uint32_t via)
{
    struct session_server *s = link->server;
    struct mqtt_packet view;
    struct receiver r;
    char text[40];
    if (!link_roomy(link, s->opt.output_high)) {
        sys_owe(link);
        return 0;
    }
    memset(&view, 0, sizeof view);
    memset(&r, 0, sizeof r);
    view.publish.topic = bytes_literal(topic->name);
    view.publish.payload = sys_print(s, topic->value, value, text);
    r.retain = retain != 0;
    r.via = via;
    link_deliver(link, &view, &r, 0, 0);
    return 1;
}

static int sys_offered(const struct session_server *s,
                       const struct sys_topic *topic)
{
    return topic->value != SYS_VERSION || s->opt.version != NULL;
}

/* A round's value goes to all who subscribed and are connected or, if it has
 * not changed, to those who missed a round.  It is published with RETAIN 1
 * [MQTT-3.3.1-12] [MQTT-3.3.1-13]. */
static void sys_publish(struct session_server *s,
                        const struct sys_topic *topic, uint64_t value,
                        int changed)
{
    match_all(s, bytes_literal(topic->name), NULL);
    for (size_t i = 0; i < s->match_n; i++) {
        const struct match *m = &s->matches[i];
        struct session_link *link = m->session->link;
        if (link == NULL || (!changed && link->sys_owed != s->sys.round))
            continue;
        if (m->session->queued[0] > 0) {
            sys_owe(link);
            continue;
        }
        uint32_t via = match_via(s, m);
        sys_send(link, topic, value, m->retain, via);
        via_give(s, via);
    }
}

static void sys_round(struct session_server *s)
{
    struct sys *y = &s->sys;
    uint64_t value[SYS_VALUES];
    sys_measure(s, value);
    y->round++;
    y->due = s->now + (uint64_t)s->opt.sys_every * 1000;
    int owed = y->owed == y->round;
    for (size_t i = 0; i < SYS_TOPICS; i++) {
        const struct sys_topic *topic = &sys_topics[i];
        int changed = value[topic->value] != y->told[topic->value];
        if ((changed || owed) && sys_offered(s, topic))
            sys_publish(s, topic, value[topic->value], changed);
    }
    memcpy(y->told, value, sizeof value);
}

static void sys_begin(struct session_server *s)
{
    sys_measure(s, s->sys.told);
    s->sys.due = s->now + (uint64_t)s->opt.sys_every * 1000;
}

/* Once per turn.  The rounds begin with the first listener and rest when
 * there is none, so that they do not wake an idle server. */
static void sys_turn(struct session_server *s)
{
    struct sys *y = &s->sys;
    if (s->opt.sys_every == 0 || s->figures.online == 0 ||
        topic_child(s, s->root, bytes_literal("$SYS")) == NULL) {
        y->due = 0;
    } else if (y->due == 0) {
        sys_begin(s);
    } else if (y->due <= s->now) {
        sys_round(s);
    }
}

/* Notes a subscription that is to get the values behind its SUBACK. */
static void sys_ask(struct session_server *s, struct sub *sub)
{
    if (s->opt.sys_every == 0 || sub->n < 5 ||
        memcmp(sub->filter, "$SYS/", 5) != 0)
        return;
    list_add(&s->sys.asked, sub);
    s->work += SYS_TOPICS;
}

/* The values for a subscription, as retained messages are sent.  One that
 * differs from what the last round told might be back at that when the next
 * round comes, and is told then even so. */
static void sys_tell(struct session_link *link, const struct sub *sub,
                     const uint64_t value[SYS_VALUES])
{
    struct session_server *s = link->server;
    struct mqtt_bytes filter = {sub->filter, sub->n}, none = {NULL, 0};
    uint32_t via = via_take(s, &sub->id, sub->id != 0, none);
    int room = 1;
    for (size_t i = 0; i < SYS_TOPICS && room; i++) {
        const struct sys_topic *topic = &sys_topics[i];
        int which = topic->value;
        if (!sys_offered(s, topic) ||
            !mqtt_topic_match(filter, bytes_literal(topic->name)))
            continue;
        room = sys_send(link, topic, value[which], 1, via);
        if (value[which] != s->sys.told[which])
            s->sys.told[which] = SYS_UNTOLD;
    }
    via_give(s, via);
}

/* SUBACK is in the output, or its link is at an end. */
static void sys_answer(struct session_link *link)
{
    struct session_server *s = link->server;
    struct list *asked = &s->sys.asked;
    uint64_t value[SYS_VALUES];
    if (asked->n > 0 && link->state == LINK_OPEN) {
        if (s->sys.due == 0)
            sys_begin(s);
        sys_measure(s, value);
        for (size_t i = 0; i < asked->n; i++)
            sys_tell(link, asked->at[i], value);
    }
    asked->n = 0;
}

/* ======================================================================== */
/* 15  shared deliveries                                                    */
/* ======================================================================== */

/* Gives a delivery that its session cannot finish to another member of the
 * Shared Subscription it came from.  1 = somebody else has it now. */
static int shared_pass_on(struct session_server *s, struct session *from,
                          struct entry e, int connected_only)
{
    struct message *m = message_at(s, e.message);
    const struct receiver *r = &m->to[e.receiver];
    const struct via *v = r->via != 0 ? s->vias.at[r->via] : NULL;
    struct mqtt_bytes name, filter;
    struct mqtt_error err;
    if (v == NULL || v->share_n == 0)
        return 0;
    if (m->expiry.at != 0 && m->expiry.at <= s->now)
        return 0; /* sent in time, but not to anybody else [MQTT-3.3.2-5] */
    struct mqtt_bytes whole = {v->share, v->share_n};
    if (mqtt_topic_filter_parse(whole, &name, &filter, &err) != 0)
        return 0;
    struct topic *t = topic_find(s, filter, 0);
    struct share *g = t != NULL ? share_find(s, t, name) : NULL;
    struct sub *sub = g != NULL ? share_choose(s, g, from) : NULL;
    if (sub == NULL || (connected_only && sub->session->link == NULL) ||
        session_full(s, sub->session))
        return 0;
    /* the QoS granted to this member bounds it [MQTT-4.8.2-3] */
    uint8_t qos = m->qos < sub->qos ? m->qos : sub->qos;
    int retain = r->retain;
    uint32_t via = via_take(s, &sub->id, sub->id != 0, whole);
    struct receiver *to = delivery_add(s, m, sub->session, qos, retain, via);
    message_note_receiver(s, m, to, qos > 0 ? STORE_NOW : STORE_SOON);
    return 1;
}

/* The session went offline: what it was not sent yet goes to members that
 * are connected. */
static void shared_release_queue(struct session_server *s,
                                 struct session *session)
{
    struct queue old = session->queue;
    const struct sub *sub = session->subs;
    while (sub != NULL && sub->share == NULL)
        sub = sub->mate;
    if (sub == NULL)
        return; /* nothing of it is shared */
    memset(&session->queue, 0, sizeof session->queue);
    for (uint32_t i = 0; i < old.n; i++) {
        struct entry e = *queue_entry(&old, i);
        struct receiver *r = entry_receiver(s, e);
        if (r->stage == STAGE_GONE || r->via == 0 ||
            !shared_pass_on(s, session, e, 1)) {
            queue_push(&session->queue, e);
            continue;
        }
        session->queued[entry_receiver(s, e)->qos]--;
        delivery_end(s, e, STORE_NOW);
    }
    free(old.ring);
    queue_trim(s, session);
}

/* ======================================================================== */
/* 16  wills                                                                */
/* ======================================================================== */

static void will_clear(struct session_server *s, struct session *session)
{
    timer_stop(s, &session->will_timer);
    text_free(&session->will.body);
    memset(&session->will, 0, sizeof session->will);
}

/* Publishes the Will Message and removes it from the session
 * [MQTT-3.1.2-8] [MQTT-3.1.2-10]. */
static void will_publish(struct session_server *s, struct session *session)
{
    struct will *w = &session->will;
    struct mqtt_packet view;
    struct inbound in;
    memset(&in, 0, sizeof in);
    int bad = mqtt_publish_open(&view, w->body.p, w->body.n);
    assert(bad == 0);
    (void)bad;
    in.topic = view.publish.topic;
    in.payload = view.publish.payload;
    in.properties = view.props.raw; /* in their order [MQTT-3.1.3-10] */
    in.qos = w->qos;
    in.retain = w->retain; /* [MQTT-3.1.2-14] [MQTT-3.1.2-15] */
    if (w->has_expiry)
        in.expires = s->now + (uint64_t)w->expiry * 1000;
    in.from = session;
    message_route(s, &in);
    will_clear(s, session);
}

/* Those of the properties that travel with a message: in order, as they
 * are.  Those that belong to the connection or to the way are left out. */
static struct mqtt_bytes properties_passed_on(struct buf *out,
                                              const struct mqtt_properties *p)
{
    const uint64_t own = ((uint64_t)1 << MQTT_MESSAGE_EXPIRY_INTERVAL) |
                         ((uint64_t)1 << MQTT_TOPIC_ALIAS) |
                         ((uint64_t)1 << MQTT_WILL_DELAY_INTERVAL) |
                         ((uint64_t)1 << MQTT_SUBSCRIPTION_IDENTIFIER);
    struct mqtt_bytes rest = p->raw;
    struct mqtt_property_view view;
    if ((p->has & own) == 0)
        return p->raw;
    out->n = 0;
    while (mqtt_property_next(&rest, &view)) {
        if (((own >> view.id) & 1) == 0)
            buf_add(out, view.whole.p, view.whole.n);
    }
    struct mqtt_bytes passed = {out->p, out->n};
    return passed;
}

/* Keeps the will of a CONNECT with the session [MQTT-3.1.2-7]. */
static void will_set(struct session_server *s, struct session *session,
                     const struct mqtt_connect *c)
{
    struct will *w = &session->will;
    struct buf kept = {0};
    struct inbound in;
    if (!c->will_flag)
        return;
    memset(&in, 0, sizeof in);
    in.topic = c->will_topic;
    in.payload = c->will_payload;
    in.properties = properties_passed_on(&kept, &c->will_props);
    w->body = text_copy(inbound_encode(s, &in));
    buf_free(&kept);
    w->qos = c->will_qos;
    w->retain = c->will_retain;
    w->delay = c->will_props.will_delay_interval;
    w->has_expiry =
        MQTT_HAS(&c->will_props, MQTT_MESSAGE_EXPIRY_INTERVAL) != 0;
    w->expiry = c->will_props.message_expiry_interval;
}

/* ======================================================================== */
/* 17  sessions                                                             */
/* ======================================================================== */

static struct session *session_find(const struct session_server *s,
                                    struct mqtt_bytes client)
{
    uint64_t hash = hash_bytes(s, client);
    struct node *n = table_first(&s->clients, hash);
    for (; n != NULL; n = node_with(n->next, hash)) {
        struct session *session = OWNER(struct session, node, n);
        if (bytes_same(bytes_of(&session->client), client))
            return session;
    }
    return NULL;
}

/* The session is filed under the Client Identifier [MQTT-3.1.3-2]. */
static struct session *session_new(struct session_server *s, uint64_t id,
                                   struct mqtt_bytes client)
{
    struct session *session = mem_new(sizeof *session);
    session->object.kind = OBJECT_SESSION;
    session->expire.kind = TIMER_EXPIRY;
    session->will_timer.kind = TIMER_WILL;
    session->id = id;
    session->client = text_copy(client);
    session->slot = slots_take(&s->sessions, session);
    /* those that the replay makes by number wait in buckets of their own */
    table_add(&s->clients, &session->node,
              client.n > 0 ? hash_bytes(s, client) : hash_number(id));
    s->figures.sessions++;
    return session;
}

/* The memory of a session that nothing points at any more. */
static void session_free(struct session *session)
{
    text_free(&session->will.body);
    text_free(&session->client);
    free(session->queue.ring);
    free(session->flights);
    free(session->rx);
    free(session);
}

/* Lets go of what was queued for a session that ends; members of a Shared
 * Subscription take over what came from it.  Returns how many were lost. */
static uint32_t session_drop_queue(struct session_server *s,
                                   struct session *session)
{
    uint32_t lost = 0;
    while (session->queue.n > 0) {
        struct entry e = delivery_pop(s, session);
        lost += !shared_pass_on(s, session, e, 0);
        delivery_end(s, e, STORE_LATER);
    }
    return lost;
}

/* Likewise of what it had been sent.  A QoS 2 message that it may have got
 * goes to nobody else [MQTT-4.8.2-5]; a QoS 1 message does. */
static uint32_t session_drop_flights(struct session_server *s,
                                     struct session *session)
{
    uint32_t lost = 0;
    for (uint32_t i = 0; i < session->flight_n; i++) {
        struct entry e = session->flights[i].entry;
        if (entry_receiver(s, e)->qos != 1 ||
            !shared_pass_on(s, session, e, 0))
            lost++;
        delivery_end(s, e, STORE_LATER);
    }
    session->flight_n = 0;
    return lost;
}

/* why: NULL = it was said that the session ends with its connection. */
static void log_session_end(struct session_server *s,
                            const struct session *session, const char *why,
                            uint32_t lost)
{
    if (why == NULL && lost == 0)
        return;
    log_begin(s, session, NULL);
    log_add(s, "session ended%s", why != NULL ? why : " with its connection");
    if (lost > 0)
        log_add(s, "; %lu message%s discarded", (unsigned long)lost,
                lost == 1 ? "" : "s");
    if (session->will.body.p != NULL)
        log_add(s, "; its will is published [MQTT-3.1.2-8]");
    log_end(s, "");
}

/* Ends a session that has no connection: its state goes [MQTT-4.1.0-2], and
 * a will that is still there is published [MQTT-3.1.2-8].  Frees it. */
static void session_end(struct session_server *s, struct session *session,
                        enum store_when when, const char *why)
{
    assert(session->link == NULL);
    session_note(s, "end", session, 0, when);
    session->durable = 0;
    while (session->subs != NULL)
        sub_del(s, session->subs);
    uint32_t lost = session_drop_queue(s, session);
    lost += session_drop_flights(s, session);
    drop_count(s, DROP_SESSION_ENDED, lost);
    log_session_end(s, session, why, lost);
    if (session->will.body.p != NULL)
        will_publish(s, session);
    will_clear(s, session);
    timer_stop(s, &session->expire);
    store_object_drop(s->store, &session->object);
    table_del(&s->clients, &session->node);
    if (s->replaying) /* receivers still name the slot */
        slots_hold(&s->sessions, session->slot);
    else
        slots_give(&s->sessions, session->slot);
    s->figures.sessions--;
    session_free(session);
}

/* Starts the clock of an offline session. */
static void session_arm(struct session_server *s, struct session *session)
{
    if (session->expiry != EXPIRY_NEVER)
        timer_set(s, &session->expire,
                  session->offline + (uint64_t)session->expiry * 1000);
    if (session->will.due != 0)
        timer_set(s, &session->will_timer, session->will.due);
}

enum detach {
    DETACH_LOST,    /* closed in any way but DISCONNECT 0x00 */
    DETACH_CLEAN,   /* DISCONNECT 0x00: no will [MQTT-3.14.4-3] */
    DETACH_RESUMED, /* the client is already back on another connection */
    DETACH_REPLACED /* likewise, with Clean Start 1: the session is ended */
};

/* Goes on with the line on the end of a link: what becomes of its session and
 * its will. */
static void log_fate(struct session_server *s, const struct session *session,
                     enum detach how)
{
    if (session == NULL)
        return;
    const struct will *w = &session->will;
    uint32_t expiry = how == DETACH_REPLACED ? 0 : session->expiry;
    if (expiry > 0) {
        log_add(s, "; its session is kept ");
        log_seconds(s, expiry);
    } else {
        log_add(s, "; its session ends with it");
    }
    if (w->body.p == NULL)
        return;
    if (how == DETACH_CLEAN)
        log_add(s, "; its will is deleted [MQTT-3.14.4-3]");
    else if (expiry == 0 || w->delay == 0)
        log_add(s, "; its will is published [MQTT-3.1.2-8]");
    else if (how == DETACH_RESUMED)
        log_add(s, "; its will is deleted [MQTT-3.1.3-9]");
    else
        log_add(s, "; its will is published in %lu s [MQTT-3.1.2-8]",
                (unsigned long)(w->delay < expiry ? w->delay : expiry));
}

/* The network connection of a session is over. */
static void session_detach(struct session_server *s, struct session *session,
                           enum detach how)
{
    struct will *w = &session->will;
    enum store_when when = how == DETACH_LOST ? STORE_SOON : STORE_NOW;
    session->link->session = NULL;
    session->link = NULL;
    session_share(session, 0);
    session->offline = s->now;
    s->figures.online--;
    for (uint32_t i = 0; i < session->flight_n; i++)
        session->flights[i].here = 0;
    for (uint32_t i = 0; i < session->rx_n; i++)
        session->rx[i].here = 0;
    if (how == DETACH_CLEAN)
        will_clear(s, session);
    if (session->expiry == 0) {
        session_end(s, session, STORE_NOW, NULL);
        return;
    }
    if (w->body.p != NULL && w->delay == 0) {
        will_publish(s, session);
        when = STORE_NOW; /* it must not come twice [MQTT-3.1.2-10] */
    } else if (w->body.p != NULL && how == DETACH_RESUMED) {
        will_clear(s, session); /* back in time [MQTT-3.1.3-9] */
    } else if (w->body.p != NULL) {
        w->due = s->now + (uint64_t)w->delay * 1000;
    }
    session_arm(s, session);
    shared_release_queue(s, session);
    session_write(s, session, WRITE_NEW, when);
}

static uint32_t rx_place(const struct session *session, uint16_t packet_id)
{
    return packet_id_place(session->rx, session->rx_n, sizeof *session->rx,
                           packet_id);
}

static struct rx *rx_find(const struct session *session, uint16_t packet_id)
{
    uint32_t i = rx_place(session, packet_id);
    if (i == session->rx_n || session->rx[i].packet_id != packet_id)
        return NULL;
    return &session->rx[i];
}

static struct rx *rx_add(struct session *session, uint16_t packet_id)
{
    session->rx = array_room(session->rx, session->rx_n, &session->rx_cap,
                             sizeof *session->rx);
    uint32_t i = rx_place(session, packet_id);
    struct rx *rx = &session->rx[i];
    memmove(rx + 1, rx, (session->rx_n - i) * sizeof *rx);
    rx->packet_id = packet_id;
    rx->here = 0;
    rx->order = 0;
    session->rx_n++;
    return rx;
}

static void rx_del(struct session *session, struct rx *rx)
{
    uint32_t i = (uint32_t)(rx - session->rx);
    session->rx_n--;
    memmove(rx, rx + 1, (session->rx_n - i) * sizeof *rx);
}

/* ======================================================================== */
/* 18  marks: the client's side of the standard                             */
/* ======================================================================== */
/*
 * Each packet of an accepted client is held against the statements that bind
 * clients, before its handler acts on it.  What decides whether a statement
 * is in the table is whether a server can see it kept or broken for certain;
 * tests/test_marks.c says of every other one why it is not here.  "Kept" is
 * counted only where a packet came by the rule, "broken" only where no other
 * reading is left.
 *
 * A record belongs to the server, and while its client is connected it and
 * the link point at each other.  Nothing here changes what the server does.
 */

/* How late a packet may come before the client is blamed: the network and
 * this server's own turns cost time too. */
#define KEEP_ALIVE_GRACE 1000 /* ms */

/* The rows of the table.  MARK_a_b_c_d is the statement MQTT-a.b.c-d. */
enum mark {
    MARK_NONE,
    MARK_1_5_4_1, MARK_1_5_4_2, MARK_1_5_5_1, MARK_1_5_7_1, MARK_2_1_3_1,
    MARK_2_2_1_3, MARK_2_2_1_5, MARK_2_2_2_1, MARK_3_1_0_1, MARK_3_1_2_1,
    MARK_3_1_2_9, MARK_3_1_2_11, MARK_3_1_2_12, MARK_3_1_2_13, MARK_3_1_2_16,
    MARK_3_1_2_17, MARK_3_1_2_18, MARK_3_1_2_19, MARK_3_1_2_20, MARK_3_1_2_21,
    MARK_3_1_3_3, MARK_3_1_3_4, MARK_3_1_3_11, MARK_3_1_3_12, MARK_3_2_2_15,
    MARK_3_2_2_17, MARK_3_2_2_18, MARK_3_2_2_21, MARK_3_3_1_1, MARK_3_3_1_2,
    MARK_3_3_1_4, MARK_3_3_2_1, MARK_3_3_2_2, MARK_3_3_2_7, MARK_3_3_2_8,
    MARK_3_3_2_9, MARK_3_3_2_10, MARK_3_3_2_13, MARK_3_3_2_14, MARK_3_3_2_19,
    MARK_3_3_4_1, MARK_3_3_4_6, MARK_3_3_4_7, MARK_3_4_2_1, MARK_3_5_2_1,
    MARK_3_6_1_1, MARK_3_6_2_1, MARK_3_7_2_1, MARK_3_8_1_1, MARK_3_8_3_1,
    MARK_3_8_3_2, MARK_3_8_3_4, MARK_3_10_1_1, MARK_3_10_3_1, MARK_3_10_3_2,
    MARK_3_14_1_1, MARK_3_14_2_1, MARK_3_14_4_1, MARK_3_15_1_1, MARK_3_15_2_1,
    MARK_4_3_1_1, MARK_4_3_2_1, MARK_4_3_2_2, MARK_4_3_2_4, MARK_4_3_3_1,
    MARK_4_3_3_2, MARK_4_3_3_4, MARK_4_3_3_8, MARK_4_3_3_11, MARK_4_4_0_1,
    MARK_4_5_0_2, MARK_4_6_0_1, MARK_4_6_0_2, MARK_4_6_0_3, MARK_4_6_0_4,
    MARK_4_7_0_1, MARK_4_7_1_1, MARK_4_7_1_2, MARK_4_7_3_1, MARK_4_7_3_2,
    MARK_4_8_2_1, MARK_4_8_2_2, MARK_4_9_0_2, MARK_4_9_0_3, MARK_4_12_0_7,
    MARKS
};

static const struct {
    const char *statement;
    const char *asks; /* of the client */
    enum mark also;   /* another statement that says the same, or more
                         generally; it is kept and broken along */
} mark_rows[MARKS] = {
    [MARK_1_5_4_1] = {"MQTT-1.5.4-1", "Strings are well-formed UTF-8", 0},
    [MARK_1_5_4_2] = {"MQTT-1.5.4-2", "No string holds U+0000", 0},
    [MARK_1_5_5_1] = {"MQTT-1.5.5-1",
                      "Variable Byte Integers are in their shortest form", 0},
    [MARK_1_5_7_1] = {"MQTT-1.5.7-1",
                      "Names and values of User Properties are good strings",
                      0},
    [MARK_2_1_3_1] = {"MQTT-2.1.3-1",
                      "Reserved flags of the fixed header keep their value", 0},
    [MARK_2_2_1_3] = {"MQTT-2.2.1-3",
                      "A new PUBLISH, SUBSCRIBE or UNSUBSCRIBE takes a Packet "
                      "Identifier that is not in use, and not 0",
                      0},
    [MARK_2_2_1_5] = {"MQTT-2.2.1-5",
                      "An answer has the Packet Identifier of its PUBLISH", 0},
    [MARK_2_2_2_1] = {"MQTT-2.2.2-1",
                      "Where there are no properties a length of 0 says so", 0},
    [MARK_3_1_0_1] = {"MQTT-3.1.0-1", "The first packet is CONNECT", 0},
    [MARK_3_1_2_1] = {"MQTT-3.1.2-1", "The Protocol Name is MQTT", 0},
    [MARK_3_1_2_9] = {"MQTT-3.1.2-9",
                      "Will Flag 1: properties, topic and payload of the will "
                      "are there",
                      0},
    [MARK_3_1_2_11] = {"MQTT-3.1.2-11", "Will Flag 0: Will QoS is 0", 0},
    [MARK_3_1_2_12] = {"MQTT-3.1.2-12", "Will Flag 1: Will QoS is not 3", 0},
    [MARK_3_1_2_13] = {"MQTT-3.1.2-13", "Will Flag 0: Will Retain is 0", 0},
    [MARK_3_1_2_16] = {"MQTT-3.1.2-16",
                       "User Name Flag 0: there is no User Name", 0},
    [MARK_3_1_2_17] = {"MQTT-3.1.2-17",
                       "User Name Flag 1: there is a User Name", 0},
    [MARK_3_1_2_18] = {"MQTT-3.1.2-18", "Password Flag 0: there is no Password",
                       0},
    [MARK_3_1_2_19] = {"MQTT-3.1.2-19", "Password Flag 1: there is a Password",
                       0},
    [MARK_3_1_2_20] = {"MQTT-3.1.2-20",
                       "With nothing else to send, PINGREQ comes within the "
                       "Keep Alive",
                       0},
    [MARK_3_1_2_21] = {"MQTT-3.1.2-21",
                       "The Server Keep Alive counts, not the client's own",
                       MARK_3_2_2_21},
    [MARK_3_1_3_3] = {"MQTT-3.1.3-3", "CONNECT holds a Client Identifier", 0},
    [MARK_3_1_3_4] = {"MQTT-3.1.3-4", "The Client Identifier is UTF-8",
                      MARK_1_5_4_1},
    [MARK_3_1_3_11] = {"MQTT-3.1.3-11", "The Will Topic is UTF-8",
                       MARK_1_5_4_1},
    [MARK_3_1_3_12] = {"MQTT-3.1.3-12", "The User Name is UTF-8", MARK_1_5_4_1},
    [MARK_3_2_2_15] = {"MQTT-3.2.2-15",
                       "No packet is over the server's Maximum Packet Size", 0},
    [MARK_3_2_2_17] = {"MQTT-3.2.2-17",
                       "No Topic Alias is over the server's Topic Alias "
                       "Maximum",
                       MARK_3_3_2_9},
    [MARK_3_2_2_18] = {"MQTT-3.2.2-18",
                       "No Topic Alias is used where the server takes none", 0},
    [MARK_3_2_2_21] = {"MQTT-3.2.2-21",
                       "The Server Keep Alive of CONNACK is used", 0},
    [MARK_3_3_1_1] = {"MQTT-3.3.1-1", "A PUBLISH sent again has DUP 1", 0},
    [MARK_3_3_1_2] = {"MQTT-3.3.1-2", "At QoS 0, DUP is 0", MARK_4_3_1_1},
    [MARK_3_3_1_4] = {"MQTT-3.3.1-4", "The QoS of a PUBLISH is not 3", 0},
    [MARK_3_3_2_1] = {"MQTT-3.3.2-1",
                      "PUBLISH begins with the Topic Name, in UTF-8", 0},
    [MARK_3_3_2_2] = {"MQTT-3.3.2-2",
                      "The topic of a PUBLISH holds no wildcard", MARK_4_7_0_1},
    [MARK_3_3_2_7] = {"MQTT-3.3.2-7",
                      "A Topic Alias is set on the connection that uses it", 0},
    [MARK_3_3_2_8] = {"MQTT-3.3.2-8", "A Topic Alias is not 0", 0},
    [MARK_3_3_2_9] = {"MQTT-3.3.2-9",
                      "No Topic Alias is over the maximum in CONNACK", 0},
    [MARK_3_3_2_10] = {"MQTT-3.3.2-10",
                       "Each Topic Alias up to the client's own maximum is "
                       "taken",
                       0},
    [MARK_3_3_2_13] = {"MQTT-3.3.2-13", "The Response Topic is UTF-8",
                       MARK_1_5_4_1},
    [MARK_3_3_2_14] = {"MQTT-3.3.2-14", "The Response Topic holds no wildcard",
                       0},
    [MARK_3_3_2_19] = {"MQTT-3.3.2-19", "The Content Type is UTF-8",
                       MARK_1_5_4_1},
    [MARK_3_3_4_1] = {"MQTT-3.3.4-1",
                      "QoS 1 is answered by PUBACK, QoS 2 by PUBREC", 0},
    [MARK_3_3_4_6] = {"MQTT-3.3.4-6",
                      "A PUBLISH to the server has no Subscription Identifier",
                      0},
    [MARK_3_3_4_7] = {"MQTT-3.3.4-7",
                      "No more QoS 1 and 2 messages are open than the server's "
                      "Receive Maximum",
                      MARK_4_9_0_2},
    [MARK_3_4_2_1] = {"MQTT-3.4.2-1", "PUBACK has one of its Reason Codes", 0},
    [MARK_3_5_2_1] = {"MQTT-3.5.2-1", "PUBREC has one of its Reason Codes", 0},
    [MARK_3_6_1_1] = {"MQTT-3.6.1-1", "The flags of PUBREL are 0010", 0},
    [MARK_3_6_2_1] = {"MQTT-3.6.2-1", "PUBREL has one of its Reason Codes", 0},
    [MARK_3_7_2_1] = {"MQTT-3.7.2-1", "PUBCOMP has one of its Reason Codes", 0},
    [MARK_3_8_1_1] = {"MQTT-3.8.1-1", "The flags of SUBSCRIBE are 0010", 0},
    [MARK_3_8_3_1] = {"MQTT-3.8.3-1", "Topic Filters to subscribe to are UTF-8",
                      MARK_1_5_4_1},
    [MARK_3_8_3_2] = {"MQTT-3.8.3-2",
                      "SUBSCRIBE has a Topic Filter with its options", 0},
    [MARK_3_8_3_4] = {"MQTT-3.8.3-4",
                      "No Local is not set on a Shared Subscription", 0},
    [MARK_3_10_1_1] = {"MQTT-3.10.1-1", "The flags of UNSUBSCRIBE are 0010", 0},
    [MARK_3_10_3_1] = {"MQTT-3.10.3-1",
                       "Topic Filters to unsubscribe from are UTF-8",
                       MARK_1_5_4_1},
    [MARK_3_10_3_2] = {"MQTT-3.10.3-2", "UNSUBSCRIBE has a Topic Filter", 0},
    [MARK_3_14_1_1] = {"MQTT-3.14.1-1", "The flags of DISCONNECT are 0", 0},
    [MARK_3_14_2_1] = {"MQTT-3.14.2-1",
                       "DISCONNECT has one of its Reason Codes", 0},
    [MARK_3_14_4_1] = {"MQTT-3.14.4-1", "Nothing comes after DISCONNECT", 0},
    [MARK_3_15_1_1] = {"MQTT-3.15.1-1", "The flags of AUTH are 0", 0},
    [MARK_3_15_2_1] = {"MQTT-3.15.2-1", "AUTH has one of its Reason Codes", 0},
    [MARK_4_3_1_1] = {"MQTT-4.3.1-1", "A PUBLISH of QoS 0 has DUP 0", 0},
    [MARK_4_3_2_1] = {"MQTT-4.3.2-1",
                      "A new QoS 1 message takes an unused Packet Identifier",
                      0},
    [MARK_4_3_2_2] = {"MQTT-4.3.2-2", "A new QoS 1 message has DUP 0", 0},
    [MARK_4_3_2_4] = {"MQTT-4.3.2-4",
                      "A QoS 1 message is answered by PUBACK, with its Packet "
                      "Identifier",
                      0},
    [MARK_4_3_3_1] = {"MQTT-4.3.3-1",
                      "A new QoS 2 message takes an unused Packet Identifier",
                      0},
    [MARK_4_3_3_2] = {"MQTT-4.3.3-2", "A new QoS 2 message has DUP 0", 0},
    [MARK_4_3_3_4] = {"MQTT-4.3.3-4",
                      "PUBREL answers a PUBREC below 0x80, with its Packet "
                      "Identifier",
                      0},
    [MARK_4_3_3_8] = {"MQTT-4.3.3-8",
                      "A QoS 2 message is answered by PUBREC, with its Packet "
                      "Identifier",
                      0},
    [MARK_4_3_3_11] = {"MQTT-4.3.3-11",
                       "PUBCOMP answers a PUBREL, with its Packet Identifier",
                       0},
    [MARK_4_4_0_1] = {"MQTT-4.4.0-1",
                      "PUBLISH and PUBREL are repeated when a session is "
                      "resumed, and at no other time",
                      0},
    [MARK_4_5_0_2] = {"MQTT-4.5.0-2",
                      "Each message is acknowledged, wanted or not", 0},
    [MARK_4_6_0_1] = {"MQTT-4.6.0-1",
                      "Messages are repeated in the order they were first sent",
                      0},
    [MARK_4_6_0_2] = {"MQTT-4.6.0-2",
                      "PUBACKs come in the order of their PUBLISHes", 0},
    [MARK_4_6_0_3] = {"MQTT-4.6.0-3",
                      "PUBRECs come in the order of their PUBLISHes", 0},
    [MARK_4_6_0_4] = {"MQTT-4.6.0-4",
                      "PUBRELs come in the order of their PUBRECs", 0},
    [MARK_4_7_0_1] = {"MQTT-4.7.0-1", "A Topic Name holds no wildcard", 0},
    [MARK_4_7_1_1] = {"MQTT-4.7.1-1", "# is the whole last level of a filter",
                      0},
    [MARK_4_7_1_2] = {"MQTT-4.7.1-2", "+ is a whole level of a filter", 0},
    [MARK_4_7_3_1] = {"MQTT-4.7.3-1", "Topic Names and filters are not empty",
                      0},
    [MARK_4_7_3_2] = {"MQTT-4.7.3-2", "Topic Names and filters hold no U+0000",
                      MARK_1_5_4_2},
    [MARK_4_8_2_1] = {"MQTT-4.8.2-1",
                      "A shared filter has a ShareName of one character or "
                      "more",
                      0},
    [MARK_4_8_2_2] = {"MQTT-4.8.2-2",
                      "A ShareName holds no wildcard, and a filter follows it",
                      0},
    [MARK_4_9_0_2] = {"MQTT-4.9.0-2",
                      "With its send quota used up a client sends no more QoS "
                      "1 and 2 messages",
                      0},
    [MARK_4_9_0_3] = {"MQTT-4.9.0-3",
                      "With its send quota used up a client still answers", 0},
    [MARK_4_12_0_7] = {"MQTT-4.12.0-7",
                       "No AUTH without an Authentication Method in CONNECT",
                       0},
};

/* One client's marks, over all its connections. */
struct client {
    struct node node;           /* by Client Identifier */
    struct client *next, *prev; /* heard after, heard before this one */
    struct session_link *link;  /* NULL = not connected */
    struct text name;           /* Client Identifier */
    uint64_t first, last;       /* when it was heard, ms */
    uint64_t connections, packets;
    struct {
        uint32_t kept, broken;         /* since the record began */
        uint32_t kept_now, broken_now; /* on this connection */
        char *how; /* of the last time it was broken; NULL = never */
    } marks[MARKS];
};

static struct client *client_find(const struct session_server *s,
                                  struct mqtt_bytes name)
{
    uint64_t hash = hash_bytes(s, name);
    struct node *n = table_first(&s->marked, hash);
    for (; n != NULL; n = node_with(n->next, hash)) {
        struct client *c = OWNER(struct client, node, n);
        if (bytes_same(bytes_of(&c->name), name))
            return c;
    }
    return NULL;
}

static void client_unlink(struct session_server *s, struct client *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        s->heard_first = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        s->heard_last = c->prev;
}

/* Puts it at the end of those heard last. */
static void client_push(struct session_server *s, struct client *c)
{
    c->next = NULL;
    c->prev = s->heard_last;
    if (c->prev != NULL)
        c->prev->next = c;
    else
        s->heard_first = c;
    s->heard_last = c;
    c->last = s->now;
}

static void client_free(struct session_server *s, struct client *c)
{
    client_unlink(s, c);
    table_del(&s->marked, &c->node);
    if (c->link != NULL)
        c->link->client = NULL;
    for (int m = 0; m < MARKS; m++)
        free(c->marks[m].how);
    text_free(&c->name);
    free(c);
}

/* The client's record, or a new one; NULL = its Client Identifier is too long
 * for one.  Who was heard longest ago makes room, and if it is connected gets
 * its next record with its next CONNECT: were it with its next packet, more
 * than CLIENT_MARKS_MAX clients that talk in turn would push each other out
 * with every packet. */
static struct client *client_take(struct session_server *s,
                                  struct mqtt_bytes name)
{
    struct client *c = client_find(s, name);
    if (c != NULL) {
        client_unlink(s, c);
        client_push(s, c);
        return c;
    }
    if (name.n > CLIENT_MARKS_NAME_MAX)
        return NULL;
    if (s->marked.count >= CLIENT_MARKS_MAX)
        client_free(s, s->heard_first);
    c = mem_new(sizeof *c);
    c->name = text_copy(name);
    c->first = s->now;
    table_add(&s->marked, &c->node, hash_bytes(s, name));
    client_push(s, c);
    return c;
}

static void marks_free(struct session_server *s)
{
    while (s->heard_first != NULL)
        client_free(s, s->heard_first);
    free(s->marked.bucket);
}

static void mark_keep(struct session_link *link, enum mark m)
{
    for (; m != MARK_NONE; m = mark_rows[m].also) {
        link->client->marks[m].kept += link->client->marks[m].kept < UINT32_MAX;
        link->client->marks[m].kept_now = 1;
    }
}

static void mark_keep_all(struct session_link *link, const enum mark *m)
{
    for (; *m != MARK_NONE; m++)
        mark_keep(link, *m);
}

/* Counts a statement as broken, now or on a connection that was refused, and
 * remembers how, as plain ASCII. */
static void client_break(struct client *c, enum mark m, int now,
                         const char *how)
{
    for (; m != MARK_NONE; m = mark_rows[m].also) {
        size_t size = 160;
        c->marks[m].broken += c->marks[m].broken < UINT32_MAX;
        c->marks[m].broken_now += now && c->marks[m].broken_now < UINT32_MAX;
        if (c->marks[m].how == NULL)
            c->marks[m].how = mem_new(size);
        snprintf(c->marks[m].how, size, "%s", how);
    }
}

static void mark_break(struct session_link *link, enum mark m,
                       const char *format, ...)
{
    char how[160];
    va_list args;
    va_start(args, format);
    vsnprintf(how, sizeof how, format, args);
    va_end(args);
    client_break(link->client, m, 1, how);
}

/* The row of a statement, or MARK_NONE. */
static enum mark mark_find(const char *statement)
{
    for (int m = MARK_NONE + 1; m < MARKS; m++)
        if (strcmp(mark_rows[m].statement, statement) == 0)
            return (enum mark)m;
    return MARK_NONE;
}

/* Whom a CONNECT that failed is counted for.  Anybody can write such a one, so
 * it pushes nobody out: it finds a record, or there is a free place. */
static struct client *client_named(struct session_server *s,
                                   struct mqtt_bytes name)
{
    struct client *c = client_find(s, name);
    if (c != NULL || s->marked.count >= CLIENT_MARKS_MAX || name.n == 0 ||
        mqtt_utf8_check(name.p, name.n) != name.n)
        return c;
    return client_take(s, name);
}

/* A packet broke a rule that ends its connection. */
static void marks_fail(struct session_link *link, const struct mqtt_error *err)
{
    struct client *c = link->client;
    enum mark m = mark_find(err->statement);
    struct mqtt_error words = *err;
    char how[WHY_MAX];
    if (m == MARK_NONE)
        return;
    if (link->state == LINK_NEW)
        c = client_named(link->server,
                         mqtt_connect_client_id(link->in.p, link->in.n));
    words.statement = "";
    error_print(how, &words);
    if (c != NULL)
        client_break(c, m, link->client != NULL, how);
}

/* ---- CONNECT */

static void marks_user_properties(struct session_link *link,
                                  const struct mqtt_properties *props)
{
    if (MQTT_HAS(props, MQTT_USER_PROPERTY))
        mark_keep(link, MARK_1_5_7_1);
}

/* Of PUBLISH and of a will. */
static void marks_message(struct session_link *link,
                          const struct mqtt_properties *props)
{
    marks_user_properties(link, props);
    if (MQTT_HAS(props, MQTT_CONTENT_TYPE))
        mark_keep(link, MARK_3_3_2_19);
    if (MQTT_HAS(props, MQTT_RESPONSE_TOPIC)) {
        mark_keep(link, MARK_3_3_2_13);
        mark_keep(link, MARK_3_3_2_14);
    }
}

static void marks_connect(struct session_link *link,
                          const struct mqtt_packet *p)
{
    static const enum mark always[] = {MARK_1_5_4_2, MARK_1_5_5_1, MARK_2_1_3_1,
                                       MARK_2_2_2_1, MARK_3_1_0_1, MARK_3_1_2_1,
                                       MARK_3_1_3_3, MARK_3_1_3_4, MARK_NONE};
    static const enum mark with_will[] = {
        MARK_3_1_2_9, MARK_3_1_2_12, MARK_3_1_3_11, MARK_4_7_0_1,
        MARK_4_7_3_1, MARK_4_7_3_2,  MARK_NONE};
    static const enum mark without[] = {MARK_3_1_2_11, MARK_3_1_2_13,
                                        MARK_NONE};
    const struct mqtt_connect *c = &p->connect;
    mark_keep_all(link, always);
    mark_keep_all(link, c->will_flag ? with_will : without);
    mark_keep(link, c->has_user_name ? MARK_3_1_2_17 : MARK_3_1_2_16);
    mark_keep(link, c->has_password ? MARK_3_1_2_19 : MARK_3_1_2_18);
    if (c->has_user_name)
        mark_keep(link, MARK_3_1_3_12);
    marks_user_properties(link, &p->props);
    if (c->will_flag)
        marks_message(link, &c->will_props);
}

/* The client was accepted: its session is the link's by now. */
static void marks_open(struct session_link *link, const struct mqtt_packet *p,
                       int present)
{
    struct session_server *s = link->server;
    struct client *c = client_take(s, bytes_of(&link->session->client));
    link->client = c;
    link->resumed = present != 0;
    link->rx_base = link->session->rx_order;
    if (c == NULL)
        return;
    c->link = link;
    c->connections++;
    c->packets++;
    for (int m = 0; m < MARKS; m++)
        c->marks[m].kept_now = c->marks[m].broken_now = 0;
    marks_connect(link, p);
}

/* ---- Packet Identifiers, order */

/* Did this identifier come on this connection while nothing left it?  Then
 * the client cannot have seen an answer.  The type it came in, or 0. */
static uint8_t fresh_type(const struct session_link *link, uint16_t id)
{
    for (uint8_t i = 0; i < link->fresh_n; i++)
        if (link->fresh[i].packet_id == id)
            return link->fresh[i].type;
    return 0;
}

static void fresh_add(struct session_link *link, uint16_t id, uint8_t type)
{
    if (link->fresh_n < FRESH_MAX) {
        link->fresh[link->fresh_n].packet_id = id;
        link->fresh[link->fresh_n++].type = type;
    }
}

/* The `at`-th packet is answered.  In order is the one behind the last, if
 * all before are answered; that shows only while a later one is open.  One
 * beyond it overtakes an open one.  What was overtaken comes late, and was
 * counted then. */
static void marks_in_turn(struct session_link *link, struct in_turn *turn,
                          uint32_t at, enum mark m, const struct mqtt_packet *p)
{
    if (at == turn->answered + 1 && turn->last == turn->answered) {
        if (at < turn->sent)
            mark_keep(link, m);
    } else if (at > turn->last) {
        mark_break(link, m,
                   "%s with Packet Identifier %u came before that of an "
                   "earlier one",
                   mqtt_type_name(p->type), (unsigned)p->packet_id);
    }
    turn->answered++;
    if (at > turn->last)
        turn->last = at;
}

/* ---- what the client publishes */

/* A QoS 2 message with an identifier that is not released. */
static void marks_repeat(struct session_link *link,
                         const struct mqtt_publish *m, struct rx *rx)
{
    unsigned id = m->packet_id;
    if (rx->here && m->dup) {
        mark_break(link, MARK_4_4_0_1,
                   "PUBLISH with Packet Identifier %u was repeated on one "
                   "connection",
                   id);
        return;
    }
    if (rx->here) {
        static const char how[] = "PUBLISH of QoS 2, DUP 0, with Packet "
                                  "Identifier %u, which is not released";
        mark_break(link, MARK_2_2_1_3, how, id);
        mark_break(link, MARK_4_3_3_1, how, id);
        return;
    }
    if (!m->dup) {
        mark_break(link, MARK_3_3_1_1,
                   "PUBLISH with Packet Identifier %u, which an earlier "
                   "connection left open, has DUP 0 (or is another message: "
                   "MQTT-2.2.1-3)",
                   id);
    } else {
        mark_keep(link, MARK_3_3_1_1);
        mark_keep(link, MARK_4_4_0_1);
        if (rx->order != 0 && link->repeated > rx->order)
            mark_break(link, MARK_4_6_0_1,
                       "PUBLISH with Packet Identifier %u was repeated after "
                       "one that was first sent later",
                       id);
        else if (rx->order != 0 && link->repeated != 0)
            mark_keep(link, MARK_4_6_0_1);
        link->repeated = rx->order;
    }
    rx->order = ++link->session->rx_order; /* PUBREC is sent again */
}

/* Any other QoS 1 or 2 message. */
static void marks_new(struct session_link *link, const struct mqtt_publish *m)
{
    unsigned id = m->packet_id;
    uint8_t fresh = fresh_type(link, m->packet_id);
    enum mark unused = m->qos == 1 ? MARK_4_3_2_1 : MARK_4_3_3_1;
    enum mark first = m->qos == 1 ? MARK_4_3_2_2 : MARK_4_3_3_2;
    if (fresh == MQTT_PUBLISH && m->dup) {
        mark_break(link, MARK_4_4_0_1,
                   "PUBLISH with Packet Identifier %u was repeated on one "
                   "connection",
                   id);
    } else if (fresh != 0 || rx_find(link->session, m->packet_id) != NULL) {
        static const char how[] =
            "PUBLISH with Packet Identifier %u, which is in use";
        mark_break(link, MARK_2_2_1_3, how, id);
        mark_break(link, unused, how, id);
    } else if (m->dup && !link->resumed) {
        mark_break(link, first,
                   "PUBLISH with DUP 1 and Packet Identifier %u, which is not "
                   "open; the session began with this connection",
                   id);
    } else if (m->dup) {
        mark_keep(link, MARK_3_3_1_1);
    } else if (link->fresh_n < FRESH_MAX) { /* else it is not known */
        mark_keep(link, MARK_2_2_1_3);
        mark_keep(link, unused);
        mark_keep(link, first);
    }
}

static void marks_alias(struct session_link *link, const struct mqtt_packet *p)
{
    uint16_t alias = p->props.topic_alias, max = link->server->opt.alias_max;
    if (!MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS)) {
        if (max == 0)
            mark_keep(link, MARK_3_2_2_18);
        return;
    }
    mark_keep(link, MARK_3_3_2_8);
    if (alias > max)
        return;
    mark_keep(link, MARK_3_2_2_17);
    if (p->publish.topic.n == 0 && link->alias_in != NULL &&
        link->alias_in[alias].n > 0)
        mark_keep(link, MARK_3_3_2_7);
}

static void marks_publish(struct session_link *link,
                          const struct mqtt_packet *p)
{
    static const enum mark always[] = {MARK_2_2_2_1, MARK_3_3_1_4, MARK_3_3_4_6,
                                       MARK_NONE};
    static const enum mark with_topic[] = {MARK_1_5_4_1, MARK_3_3_2_1,
                                           MARK_3_3_2_2, MARK_4_7_3_1,
                                           MARK_4_7_3_2, MARK_NONE};
    const struct mqtt_publish *m = &p->publish;
    mark_keep_all(link, always);
    if (m->topic.n > 0)
        mark_keep_all(link, with_topic);
    marks_message(link, &p->props);
    marks_alias(link, p);
    if (m->qos == 0) {
        mark_keep(link, MARK_3_3_1_2);
        return;
    }
    struct rx *rx = m->qos == 2 ? rx_find(link->session, m->packet_id) : NULL;
    if (link->publishing + link->burst < link->server->opt.receive_max)
        mark_keep(link, MARK_3_3_4_7);
    if (rx != NULL)
        marks_repeat(link, m, rx);
    else
        marks_new(link, m);
    fresh_add(link, m->packet_id, MQTT_PUBLISH);
}

/* A PUBREL that nothing waits for may be a repeated one, if the session was
 * resumed: the client has missed our PUBCOMP. */
static void marks_pubrel(struct session_link *link, const struct mqtt_packet *p)
{
    const struct rx *rx = rx_find(link->session, p->packet_id);
    unsigned id = p->packet_id;
    mark_keep(link, MARK_3_6_1_1);
    mark_keep(link, MARK_3_6_2_1);
    if (rx == NULL && !link->resumed) {
        mark_break(link, MARK_4_3_3_4,
                   "PUBREL with Packet Identifier %u, of which no PUBREC "
                   "below 0x80 is unanswered",
                   id);
    } else if (rx != NULL && fresh_type(link, p->packet_id) == MQTT_PUBLISH) {
        mark_break(link, MARK_4_3_3_4,
                   "PUBREL with Packet Identifier %u before PUBREC was sent",
                   id);
    } else if (rx != NULL) {
        mark_keep(link, MARK_2_2_1_5);
        mark_keep(link, rx->here ? MARK_4_3_3_4 : MARK_4_4_0_1);
    }
    if (rx != NULL && rx->here) {
        link->pubrecs.sent = link->session->rx_order - link->rx_base;
        marks_in_turn(link, &link->pubrecs, rx->order - link->rx_base,
                      MARK_4_6_0_4, p);
    }
    fresh_add(link, p->packet_id, MQTT_PUBREL);
}

/* ---- what the client answers */

/* PUBACK or PUBREC for an open delivery. */
static void marks_answer(struct session_link *link, const struct mqtt_packet *p,
                         const struct flight *f, const struct receiver *r)
{
    static const enum mark acked[] = {MARK_4_3_2_4, MARK_4_3_3_8};
    static const enum mark ordered[] = {MARK_4_6_0_2, MARK_4_6_0_3};
    uint8_t right = r->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC;
    if (p->type != right) {
        static const char how[] =
            "%s for a delivery of QoS %u, Packet Identifier %u";
        const char *name = mqtt_type_name(p->type);
        unsigned id = p->packet_id;
        mark_break(link, MARK_3_3_4_1, how, name, (unsigned)r->qos, id);
        mark_break(link, acked[r->qos - 1], how, name, (unsigned)r->qos, id);
        return;
    }
    if (r->stage != STAGE_SENT)
        return; /* another PUBREC: no statement forbids it */
    mark_keep(link, MARK_2_2_1_5);
    mark_keep(link, MARK_3_3_4_1);
    mark_keep(link, MARK_4_5_0_2);
    mark_keep(link, acked[r->qos - 1]);
    if (f->here)
        marks_in_turn(link, &link->publishes[r->qos - 1], f->order,
                      ordered[r->qos - 1], p);
}

/* PUBACK, PUBREC, PUBCOMP.  One with an unknown identifier is not judged in a
 * resumed session, where it may be about an earlier connection; nor a PUBCOMP,
 * which may answer our PUBREL 0x92. */
static void marks_ack(struct session_link *link, const struct mqtt_packet *p)
{
    const struct flight *f = flight_find(link->session, p->packet_id);
    const struct receiver *r =
        f == NULL ? NULL : entry_receiver(link->server, f->entry);
    mark_keep(link, MARK_2_1_3_1);
    mark_keep(link, p->type == MQTT_PUBACK   ? MARK_3_4_2_1
                    : p->type == MQTT_PUBREC ? MARK_3_5_2_1
                                             : MARK_3_7_2_1);
    if (link->publishing >= link->server->opt.receive_max)
        mark_keep(link, MARK_4_9_0_3);
    if (r != NULL && p->type != MQTT_PUBCOMP) {
        marks_answer(link, p, f, r);
    } else if (r != NULL && r->stage == STAGE_RELEASED) {
        mark_keep(link, MARK_2_2_1_5);
        mark_keep(link, MARK_4_3_3_11);
    } else if (r != NULL && r->qos == 2) {
        mark_break(link, MARK_4_3_3_11,
                   "PUBCOMP with Packet Identifier %u before PUBREL was sent",
                   (unsigned)p->packet_id);
    } else if (p->type != MQTT_PUBCOMP && !link->resumed) {
        mark_break(link, MARK_2_2_1_5,
                   "%s with Packet Identifier %u, which no open delivery has",
                   mqtt_type_name(p->type), (unsigned)p->packet_id);
    }
}

/* ---- requests and ends */

static void marks_filter(struct session_link *link, struct mqtt_bytes whole)
{
    struct mqtt_bytes share, filter;
    struct mqtt_error err;
    if (mqtt_topic_filter_parse(whole, &share, &filter, &err) != 0) {
        enum mark m = mark_find(err.statement);
        if (m != MARK_NONE)
            mark_break(link, m, "%s (byte %lu of the filter)", err.what,
                       (unsigned long)err.offset);
        return;
    }
    mark_keep(link, MARK_4_7_3_1);
    mark_keep(link, MARK_4_7_3_2);
    if (memchr(filter.p, '#', filter.n) != NULL)
        mark_keep(link, MARK_4_7_1_1);
    if (memchr(filter.p, '+', filter.n) != NULL)
        mark_keep(link, MARK_4_7_1_2);
    if (share.n > 0) {
        mark_keep(link, MARK_4_8_2_1);
        mark_keep(link, MARK_4_8_2_2);
    }
}

static void marks_filters(struct session_link *link,
                          const struct mqtt_packet *p)
{
    struct mqtt_bytes rest = p->list;
    struct mqtt_subscription ask;
    if (p->type == MQTT_UNSUBSCRIBE) {
        while (mqtt_unsubscribe_next(&rest, &ask.filter))
            marks_filter(link, ask.filter);
        return;
    }
    while (mqtt_subscribe_next(&rest, &ask)) {
        marks_filter(link, ask.filter);
        if (ask.filter.n >= 7 && memcmp(ask.filter.p, "$share/", 7) == 0)
            mark_keep(link, MARK_3_8_3_4);
    }
}

/* SUBSCRIBE and UNSUBSCRIBE. */
static void marks_request(struct session_link *link,
                          const struct mqtt_packet *p)
{
    static const enum mark subscribe[] = {
        MARK_2_2_2_1, MARK_3_8_1_1, MARK_3_8_3_1, MARK_3_8_3_2, MARK_NONE};
    static const enum mark unsubscribe[] = {
        MARK_2_2_2_1, MARK_3_10_1_1, MARK_3_10_3_1, MARK_3_10_3_2, MARK_NONE};
    mark_keep_all(link, p->type == MQTT_SUBSCRIBE ? subscribe : unsubscribe);
    marks_filters(link, p);
    if (fresh_type(link, p->packet_id) != 0 ||
        rx_find(link->session, p->packet_id) != NULL)
        mark_break(link, MARK_2_2_1_3,
                   "%s with Packet Identifier %u, which is in use",
                   mqtt_type_name(p->type), (unsigned)p->packet_id);
    else if (link->fresh_n < FRESH_MAX)
        mark_keep(link, MARK_2_2_1_3);
    fresh_add(link, p->packet_id, p->type);
}

/* DISCONNECT of so many bytes, which stands in front of link->in.  Only what
 * was read along with it can be seen: the link is closed after it. */
static void marks_disconnect(struct session_link *link,
                             const struct mqtt_packet *p, size_t size)
{
    mark_keep(link, MARK_3_14_1_1);
    mark_keep(link, MARK_3_14_2_1);
    if (link->in.n > size)
        mark_break(link, MARK_3_14_4_1, "%lu bytes after DISCONNECT",
                   (unsigned long)(link->in.n - size));
    else
        mark_keep(link, MARK_3_14_4_1);
    int aliased = 0;
    for (uint16_t i = 1; i <= link->alias_out_n; i++)
        aliased |= link->alias_out[i].n > 0;
    if (aliased && p->reason == MQTT_TOPIC_ALIAS_INVALID)
        mark_break(link, MARK_3_3_2_10,
                   "DISCONNECT 0x94, though no alias was above the client's "
                   "Topic Alias Maximum");
    else if (aliased)
        mark_keep(link, MARK_3_3_2_10);
}

static void marks_by_type(struct session_link *link,
                          const struct mqtt_packet *p, size_t size)
{
    switch (p->type) {
    case MQTT_PUBLISH:
        marks_publish(link, p);
        break;
    case MQTT_PUBREL:
        marks_pubrel(link, p);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBCOMP:
        marks_ack(link, p);
        break;
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        marks_request(link, p);
        break;
    case MQTT_DISCONNECT:
        marks_disconnect(link, p, size);
        break;
    case MQTT_AUTH:
        mark_keep(link, MARK_3_15_1_1);
        mark_keep(link, MARK_3_15_2_1);
        break;
    case MQTT_PINGREQ:
        mark_keep(link, MARK_2_1_3_1);
        break;
    default: /* a second CONNECT breaks what binds the server only */
        break;
    }
}

/* A packet that the codec accepts, before its handler; the state is what the
 * client left it in. */
static void marks_packet(struct session_link *link, const struct mqtt_packet *p,
                         size_t size)
{
    struct session_server *s = link->server;
    if (link->client == NULL)
        return;
    client_unlink(s, link->client);
    client_push(s, link->client);
    link->client->packets++;
    mark_keep(link, MARK_1_5_5_1);
    mark_keep(link, MARK_3_2_2_15);
    if (MQTT_HAS(&p->props, MQTT_REASON_STRING))
        mark_keep(link, MARK_1_5_4_1);
    if (p->type != MQTT_PUBLISH && p->type != MQTT_CONNECT)
        marks_user_properties(link, &p->props);
    marks_by_type(link, p, size);
}

/* ---- Keep Alive */

/* A packet is there: how long was there none?  Up to its first byte, for a
 * large one takes its time (3.1.2.10).  While the server does not listen,
 * link->heard moves on, so that this is the client's own silence. */
static void marks_silence(struct session_link *link)
{
    uint64_t silent =
        link->begun > link->heard ? link->begun - link->heard : 0;
    uint64_t allowed = (uint64_t)link->keep_alive * 1000; /* ms */
    enum mark m = link->overruled ? MARK_3_1_2_21 : MARK_3_1_2_20;
    if (link->client == NULL || link->keep_alive == 0)
        return;
    if (silent > allowed + KEEP_ALIVE_GRACE)
        mark_break(link, m,
                   "%llu ms between two packets as they came in here, Keep "
                   "Alive %u s",
                   (unsigned long long)silent, (unsigned)link->keep_alive);
    else if (silent <= allowed && link->in.p[0] >> 4 == MQTT_PINGREQ)
        mark_keep(link, m);
}

/* No packet came at all.  Of one that began to come nobody knows why it was
 * not finished. */
static void marks_timeout(struct session_link *link)
{
    if (link->client != NULL && link->in.n == 0)
        mark_break(link, link->overruled ? MARK_3_1_2_21 : MARK_3_1_2_20,
                   "no packet for %llu ms, Keep Alive %u s, unless the "
                   "network failed",
                   (unsigned long long)(link->server->now - link->heard),
                   (unsigned)link->keep_alive);
}

/* ---- the end of a connection */

/* Adds the statements that were broken on this connection. */
static void marks_list(struct buf *b, const struct client *c)
{
    char times[40];
    const char *before = ": ";
    for (int m = MARK_NONE + 1; m < MARKS; m++) {
        unsigned long n = c->marks[m].broken_now;
        if (n == 0)
            continue;
        buf_text(b, before);
        buf_text(b, mark_rows[m].statement);
        snprintf(times, sizeof times, " (%lu times)", n);
        buf_text(b, n > 1 ? times : "");
        before = ", ";
    }
}

/* Says how the client kept its side on this connection. */
static void marks_tell(struct session_link *link)
{
    struct session_server *s = link->server;
    const struct client *c = link->client;
    unsigned kept = 0, broken = 0;
    for (int m = MARK_NONE + 1; m < MARKS; m++) {
        broken += c->marks[m].broken_now > 0;
        kept += c->marks[m].kept_now > 0 && c->marks[m].broken_now == 0;
    }
    log_begin(s, link->session, link);
    if (broken == 0) {
        log_end(s,
                "kept all %u statements of the client's side that it came "
                "by",
                kept);
        return;
    }
    log_add(s, "kept %u statements of the client's side, broke %u", kept,
            broken);
    marks_list(&s->log, c);
    log_end(s, "");
}

/* The link is done with; it still has its session. */
static void marks_close(struct session_link *link)
{
    if (link->client == NULL)
        return;
    marks_tell(link);
    link->client->link = NULL;
    link->client = NULL;
}

/* ---- for onlookers (inspect.h) */

static void client_show(const struct client *c, struct inspect_client *out)
{
    memset(out, 0, sizeof *out);
    out->client = bytes_of(&c->name);
    out->first = c->first;
    out->last = c->last;
    out->connections = c->connections;
    out->packets = c->packets;
    out->online = c->link != NULL;
    for (int m = MARK_NONE + 1; m < MARKS; m++) {
        out->broken += c->marks[m].broken > 0;
        out->kept += c->marks[m].kept > 0 && c->marks[m].broken == 0;
    }
}

int inspect_client(const struct session_server *s, struct mqtt_bytes client,
                   struct inspect_client *out)
{
    const struct client *c = client_find(s, client);
    if (c != NULL)
        client_show(c, out);
    return c != NULL;
}

size_t inspect_marks(const struct session_server *s, struct mqtt_bytes client,
                     struct inspect_mark rows[INSPECT_MARKS])
{
    const struct client *c = client_find(s, client);
    size_t n = 0;
    assert(MARKS <= INSPECT_MARKS);
    for (int m = MARK_NONE + 1; c != NULL && m < MARKS; m++) {
        if (c->marks[m].kept == 0 && c->marks[m].broken == 0)
            continue;
        rows[n].statement = mark_rows[m].statement;
        rows[n].asks = mark_rows[m].asks;
        rows[n].kept = c->marks[m].kept;
        rows[n].broken = c->marks[m].broken;
        rows[n++].how = c->marks[m].how != NULL ? c->marks[m].how : "";
    }
    return n;
}

size_t inspect_clients(const struct session_server *s, size_t skip,
                       struct inspect_client *rows, size_t limit,
                       uint64_t *matched)
{
    const struct client *c = s->heard_last;
    size_t n = 0;
    *matched = s->marked.count;
    for (; c != NULL && skip > 0; skip--)
        c = c->prev;
    for (; c != NULL && n < limit; c = c->prev)
        client_show(c, &rows[n++]);
    return n;
}

/* ======================================================================== */
/* 19  connecting                                                           */
/* ======================================================================== */

/* Ends a link: nothing more is read from it, what is in its output is still
 * sent, and then it is closed [MQTT-3.14.4-2]. */
static void link_finish(struct session_link *link, enum detach how)
{
    struct session_server *s = link->server;
    link->state = LINK_DONE;
    timer_stop(s, &link->timer);
    marks_close(link);
    if (link->session != NULL)
        session_detach(s, link->session, how);
}

/* A packet that says why: one of the codes that the standard lists for it. */
static struct mqtt_packet refusal_packet(uint8_t type, uint8_t reason,
                                         const char *why)
{
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = type;
    p.reason = reason;
    if (!mqtt_reason_legal(type, reason, MQTT_FROM_SERVER))
        p.reason = MQTT_PROTOCOL_ERROR;
    p.props.has = (uint64_t)1 << MQTT_REASON_STRING;
    p.props.reason_string = bytes_literal(why);
    return p;
}

/* Ends a link with a last packet and the line that says the same. */
static void link_end(struct session_link *link, uint8_t type,
                     const struct mqtt_error *err, enum detach how)
{
    char why[WHY_MAX];
    error_print(why, err);
    struct mqtt_packet p = refusal_packet(type, err->reason, why);
    log_refusal(link, type, p.reason, why);
    log_fate(link->server, link->session, how);
    log_end(link->server, "");
    link_send(link, &p);
    link_finish(link, how);
}

/* Ends an accepted connection with DISCONNECT: one of the codes that the
 * standard lists for it [MQTT-3.14.2-1], no Session Expiry Interval
 * [MQTT-3.14.2-2].  This is the last packet on it [MQTT-3.14.4-1]. */
static void link_disconnect(struct session_link *link, uint8_t reason,
                            const char *statement, const char *what,
                            enum detach how)
{
    struct mqtt_error err = {reason, statement, NO_BYTE, what};
    link_end(link, MQTT_DISCONNECT, &err, how);
}

/* A rule was broken: says which, and ends the connection [MQTT-4.13.1-1].
 * Before CONNACK there is no DISCONNECT [MQTT-3.14.0-1], but a CONNECT is
 * refused [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8]. */
static void link_fail(struct session_link *link, const struct mqtt_error *err)
{
    struct mqtt_error named = *err;
    /* What breaks the form of CONNECT and no statement of its own. */
    if (link->state == LINK_NEW && err->statement[0] == '\0')
        named.statement = "MQTT-3.1.4-1";
    marks_fail(link, err);
    link_end(link, link->state == LINK_OPEN ? MQTT_DISCONNECT : MQTT_CONNACK,
             &named, DETACH_LOST);
}

static void link_fail_at(struct session_link *link, uint8_t reason,
                         const char *statement, size_t offset,
                         const char *what)
{
    struct mqtt_error err = {reason, statement, offset, what};
    link_fail(link, &err);
}

/* Closes a connection without a packet that says why. */
static void link_close_silently(struct session_link *link,
                                const char *statement, size_t offset,
                                const char *what)
{
    struct mqtt_error err = {0, statement, offset, what};
    char why[WHY_MAX];
    error_print(why, &err);
    log_begin(link->server, link->session, link);
    log_add(link->server, "closed: %s", why);
    log_fate(link->server, link->session, DETACH_LOST);
    log_end(link->server, "");
    link_finish(link, DETACH_LOST);
}

/* Where something stands in the packet at hand, which is the first thing in
 * the link's input. */
static size_t packet_offset(const struct session_link *link,
                            struct mqtt_bytes view)
{
    return (size_t)(view.p - link->in.p);
}

/* Likewise the value of a property that the packet has. */
static size_t property_offset(const struct session_link *link,
                              const struct mqtt_properties *props, uint8_t id)
{
    struct mqtt_bytes rest = props->raw;
    struct mqtt_property_view view;
    while (mqtt_property_next(&rest, &view)) {
        if (view.id == id)
            return packet_offset(link, view.whole) + 1;
    }
    return NO_BYTE;
}

/* Likewise the first byte behind the fixed header. */
static size_t header_size(const struct session_link *link)
{
    size_t n = 1;
    while (link->in.p[n] & 0x80)
        n++;
    return n + 1;
}

/* Each level of a filter or retained topic may cost a node of the tree, a
 * hundred times the one byte that it may be on the wire.  The standard sets no
 * limit to levels (4.7.3), so it is the tree that is bounded: else a stranger
 * could fill the memory.  1 = this one still fits. */
static int topic_fits(const struct session_server *s, struct mqtt_bytes topic)
{
    size_t levels = 1;
    for (size_t i = 0; i < topic.n; i++)
        levels += topic.p[i] == '/';
    return s->topics.count + levels <= s->opt.topics_max;
}

/* Topics that only the server publishes on. */
static int topic_reserved(struct mqtt_bytes topic)
{
    return topic.n >= 5 && memcmp(topic.p, "$SYS/", 5) == 0;
}

/* 3.3.2.3.2: what says that it is UTF-8 is checked. */
static int payload_format_wrong(const struct mqtt_properties *props,
                                struct mqtt_bytes payload)
{
    return MQTT_HAS(props, MQTT_PAYLOAD_FORMAT_INDICATOR) &&
           props->payload_format_indicator == 1 &&
           mqtt_utf8_check(payload.p, payload.n) < payload.n;
}

/* The Session Expiry Interval that the session gets. */
static uint32_t connect_expiry(const struct session_server *s,
                               const struct mqtt_packet *p)
{
    uint32_t expiry = 0;
    if (MQTT_HAS(&p->props, MQTT_SESSION_EXPIRY_INTERVAL))
        expiry = p->props.session_expiry_interval;
    else if (!p->connect.clean_start)
        expiry = s->opt.expiry_default;
    return expiry < s->opt.expiry_max ? expiry : s->opt.expiry_max;
}

/* The checks beyond form (3.1.4) [MQTT-3.1.4-2]: 0 = the client may connect,
 * -1 = it was refused. */
static int connect_check(struct session_link *link,
                         const struct mqtt_packet *p)
{
    const struct session_server *s = link->server;
    const struct mqtt_connect *c = &p->connect;
    struct mqtt_error err = {0, "MQTT-3.1.4-2", NO_BYTE, NULL};
    if (MQTT_HAS(&p->props, MQTT_AUTHENTICATION_METHOD)) {
        err.reason = MQTT_BAD_AUTHENTICATION_METHOD;
        err.statement = "MQTT-4.12.0-1";
        err.offset =
            property_offset(link, &p->props, MQTT_AUTHENTICATION_METHOD);
        err.what = "this server offers no Authentication Method";
    } else if (c->will_flag && topic_reserved(c->will_topic)) {
        err.reason = MQTT_NOT_AUTHORIZED;
        err.offset = packet_offset(link, c->will_topic);
        err.what = "topics that begin with $SYS/ are the server's";
    } else if (c->will_flag && c->will_retain &&
               !topic_fits(s, c->will_topic)) {
        err.reason = MQTT_QUOTA_EXCEEDED;
        err.offset = packet_offset(link, c->will_topic);
        err.what = "no room for another retained topic";
    } else if (c->will_flag &&
               payload_format_wrong(&c->will_props, c->will_payload)) {
        err.reason = MQTT_PAYLOAD_FORMAT_INVALID;
        err.offset = packet_offset(link, c->will_payload) +
                     mqtt_utf8_check(c->will_payload.p, c->will_payload.n);
        err.what = "Payload Format Indicator 1, but the Will Payload is not "
                   "UTF-8";
    } else if (store_full(s->store) && connect_expiry(s, p) > 0 &&
               (c->client_id.n == 0 || session_find(s, c->client_id) == NULL)) {
        /* who has a session may come and take what is queued for it */
        err.reason = MQTT_QUOTA_EXCEEDED;
        err.what = "the server's disk is full";
    } else {
        return 0;
    }
    link_fail(link, &err);
    return -1;
}

/* A Client Identifier that no session has [MQTT-3.1.3-6] [MQTT-3.2.2-16]. */
static struct mqtt_bytes connect_assign(struct session_server *s, char out[40])
{
    struct mqtt_bytes name = {(const uint8_t *)out, 0};
    do {
        uint8_t count[16];
        for (int i = 0; i < 8; i++) {
            count[i] = (uint8_t)(s->assigned >> (8 * i));
            count[8 + i] = (uint8_t)(s->now >> (8 * i));
        }
        struct mqtt_bytes what = {count, sizeof count};
        s->assigned++;
        name.n = (size_t)snprintf(out, 40, "holdfast-%016llx",
                                  (unsigned long long)hash_bytes(s, what));
    } while (session_find(s, name) != NULL);
    return name;
}

/* Finds the session to go on with, after ending what the CONNECT ends: the
 * old connection [MQTT-3.1.4-3], and with Clean Start the old session
 * [MQTT-3.1.2-4] [MQTT-3.1.4-4].  NULL: there is none. */
static struct session *connect_resume(struct session_server *s,
                                      const struct mqtt_connect *c,
                                      struct mqtt_bytes client)
{
    struct session *session = session_find(s, client);
    if (session != NULL && session->link != NULL) {
        link_disconnect(session->link, MQTT_SESSION_TAKEN_OVER, "MQTT-3.1.4-3",
                        "another connection uses this Client Identifier",
                        c->clean_start ? DETACH_REPLACED : DETACH_RESUMED);
        session = session_find(s, client); /* gone if its expiry was 0 */
    }
    if (session != NULL && c->clean_start) {
        session_end(s, session, STORE_NOW, ": Clean Start 1 [MQTT-3.1.2-4]");
        session = NULL;
    }
    return session;
}

/* What the client may be sent and may do, from its CONNECT. */
static void connect_limits(struct session_link *link,
                           const struct mqtt_packet *p)
{
    const struct session_options *opt = &link->server->opt;
    const struct mqtt_properties *props = &p->props;
    uint16_t keep_alive = p->connect.keep_alive;
    link->problem_information =
        !MQTT_HAS(props, MQTT_REQUEST_PROBLEM_INFORMATION) ||
        props->request_problem_information;
    if (MQTT_HAS(props, MQTT_MAXIMUM_PACKET_SIZE))
        link->packet_max = props->maximum_packet_size;
    link->window = opt->window_max; /* [MQTT-4.9.0-1] */
    if (MQTT_HAS(props, MQTT_RECEIVE_MAXIMUM) &&
        props->receive_maximum < link->window)
        link->window = props->receive_maximum;
    if (MQTT_HAS(props, MQTT_TOPIC_ALIAS_MAXIMUM))
        link->alias_out_n = props->topic_alias_maximum < opt->alias_out_max
                                ? props->topic_alias_maximum
                                : opt->alias_out_max;
    if (link->alias_out_n > 0)
        link->alias_out =
            mem_new((link->alias_out_n + 1u) * sizeof *link->alias_out);
    if (opt->keep_alive_max > 0 &&
        (keep_alive == 0 || keep_alive > opt->keep_alive_max)) {
        keep_alive = opt->keep_alive_max;
        link->overruled = 1;
    }
    link->keep_alive = keep_alive;
    link->silence = (uint64_t)keep_alive * 1500; /* [MQTT-3.1.2-22] */
}

/* CONNACK 0x00 [MQTT-3.1.4-5] with all that the client has to know. */
static int connect_answer(struct session_link *link,
                          const struct mqtt_packet *connect, int present)
{
    const struct session_options *opt = &link->server->opt;
    const struct session *session = link->session;
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = MQTT_CONNACK;
    p.session_present = present != 0; /* [MQTT-3.2.2-2] [MQTT-3.2.2-3] */
    struct mqtt_properties *props = &p.props;
    props->receive_maximum = opt->receive_max;
    props->maximum_packet_size = opt->packet_max;
    props->topic_alias_maximum = opt->alias_max;
    props->has = ((uint64_t)1 << MQTT_RECEIVE_MAXIMUM) |
                 ((uint64_t)1 << MQTT_MAXIMUM_PACKET_SIZE) |
                 ((uint64_t)1 << MQTT_TOPIC_ALIAS_MAXIMUM);
    if (session->expiry != connect->props.session_expiry_interval) {
        props->has |= (uint64_t)1 << MQTT_SESSION_EXPIRY_INTERVAL;
        props->session_expiry_interval = session->expiry;
    }
    if (connect->connect.client_id.n == 0) { /* [MQTT-3.1.3-7] */
        props->has |= (uint64_t)1 << MQTT_ASSIGNED_CLIENT_IDENTIFIER;
        props->assigned_client_identifier = bytes_of(&session->client);
    }
    if (link->overruled) {
        props->has |= (uint64_t)1 << MQTT_SERVER_KEEP_ALIVE;
        props->server_keep_alive = opt->keep_alive_max;
    }
    return link_send(link, &p);
}

/* The line of an accepted CONNECT: what it found and what it was granted. */
static void log_accepted(struct session_link *link,
                         const struct mqtt_packet *p, int present)
{
    struct session_server *s = link->server;
    const struct session *session = link->session;
    unsigned long waits = session->queue.n - session->gone;
    log_begin(s, session, link);
    log_add(s, "CONNACK 0x00 Success: %s session",
            present ? "resumed its" : "a new");
    if (present)
        log_add(s, ", %lu queued, %lu in flight", waits,
                (unsigned long)session->flight_n);
    log_add(s, "; Session Expiry Interval ");
    log_seconds(s, session->expiry);
    if (session->expiry != p->props.session_expiry_interval) {
        int asked = MQTT_HAS(&p->props, MQTT_SESSION_EXPIRY_INTERVAL);
        log_add(s, asked ? ", asked for " : ", the default");
        if (asked)
            log_seconds(s, p->props.session_expiry_interval);
    }
    log_add(s, "; Keep Alive %u s", (unsigned)link->keep_alive);
    if (link->overruled)
        log_add(s, ", asked for %u s", (unsigned)p->connect.keep_alive);
    log_end(s, "");
}

static void connect_note(struct session_link *link,
                         const struct mqtt_packet *p)
{
    const struct mqtt_connect *c = &p->connect;
    uint32_t expiry = link->session->expiry;
    if (!c->clean_start && expiry == 0)
        note(link, HABIT_EXPIRY_0);
    if (c->clean_start && expiry > 0)
        note(link, HABIT_CLEAN_START);
    if (link->keep_alive == 0)
        note(link, HABIT_KEEP_ALIVE_0);
    if (c->client_id.n == 0 && expiry > 0)
        note(link, HABIT_ASSIGNED);
    if (c->will_flag && c->will_props.will_delay_interval > expiry)
        note(link, HABIT_WILL_DELAY);
    if (link->packet_max < PACKET_SMALL)
        note(link, HABIT_PACKET_SMALL);
    if (p->props.request_response_information)
        note(link, HABIT_RESPONSE_INFORMATION);
}

struct order {
    uint32_t key; /* rising with age */
    struct entry entry;
};

static int order_compare(const void *a, const void *b)
{
    const struct order *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

/* Takes up the open exchanges of a resumed session: PUBRELs at once, then
 * PUBLISHes in their first order as the window allows [MQTT-4.4.0-1]
 * [MQTT-4.3.3-5] [MQTT-4.3.3-6].  PUBRELs take places in the window too, so
 * that however 3.3.4 is read, no more than Receive Maximum are open. */
static void link_resume(struct session_link *link)
{
    struct session_server *s = link->server;
    struct session *session = link->session;
    uint32_t n = session->flight_n;
    if (n == 0)
        return;
    struct order *order = mem_grow(NULL, n * sizeof *order);
    for (uint32_t i = 0; i < n; i++) {
        order[i].entry = session->flights[i].entry;
        /* places count up to session->place and may wrap */
        order[i].key =
            entry_receiver(s, order[i].entry)->place - session->place;
    }
    qsort(order, n, sizeof *order, order_compare);
    link->resend = mem_grow(NULL, n * sizeof *link->resend);
    for (uint32_t i = 0; i < n; i++) {
        const struct receiver *r = entry_receiver(s, order[i].entry);
        if (r->stage == STAGE_SENT) {
            link->resend[link->resend_n++] = r->packet_id;
        } else {
            link_ack(link, MQTT_PUBREL, r->packet_id, MQTT_SUCCESS, NULL);
            flight_find(session, r->packet_id)->here = 1;
            link->flying++;
        }
    }
    free(order);
}

/* Binds link and session; the session's state goes to the ledger before the
 * CONNACK leaves. */
static void session_attach(struct session_link *link, struct session *session,
                           const struct mqtt_packet *p)
{
    struct session_server *s = link->server;
    uint32_t expiry = connect_expiry(s, p);
    if (session->durable && expiry == 0) {
        /* it ends with this connection: a crash ends that too */
        session_note(s, "end", session, 0, STORE_NOW);
        session->durable = 0;
        store_object_drop(s->store, &session->object);
        for (struct sub *sub = session->subs; sub != NULL; sub = sub->mate)
            store_object_drop(s->store, &sub->object);
    } else if (expiry > 0) {
        session->durable = 1;
    }
    timer_stop(s, &session->expire);
    if (session->will.body.p != NULL) {
        log_begin(s, session, link);
        log_end(s, "the will of the connection before is deleted: the client "
                   "is back [MQTT-3.1.3-9]");
    }
    will_clear(s, session); /* [MQTT-3.1.3-9] */
    session->expiry = expiry;
    session->link = link;
    session_share(session, 1);
    session->offline = 0;
    link->session = session;
    link->state = LINK_OPEN;
    link->since = s->now;
    link->expiry_zero =
        expiry == 0 && p->props.session_expiry_interval == 0;
    if (++s->figures.online > s->figures.online_max)
        s->figures.online_max = s->figures.online;
    will_set(s, session, &p->connect);
    session_write(s, session, WRITE_NEW, STORE_NOW);
    if (link->silence > 0)
        timer_set(s, &link->timer, s->now + link->silence);
    else
        timer_stop(s, &link->timer);
    session_wake(s, session);
}

static void on_connect(struct session_link *link, const struct mqtt_packet *p)
{
    struct session_server *s = link->server;
    struct mqtt_bytes client = p->connect.client_id;
    char assigned[40];
    connect_limits(link, p);
    if (connect_check(link, p) != 0)
        return;
    if (client.n == 0)
        client = connect_assign(s, assigned);
    struct session *session = connect_resume(s, &p->connect, client);
    int present = session != NULL; /* [MQTT-3.1.2-5] [MQTT-3.1.2-6] */
    if (session == NULL)
        session = session_new(s,
                              connect_expiry(s, p) > 0 ? s->next_session++
                                                       : s->next_brief++,
                              client);
    session_attach(link, session, p);
    marks_open(link, p, present);
    if (!connect_answer(link, p, present)) {
        link_close_silently(link, "MQTT-3.1.2-24", NO_BYTE,
                            "CONNACK is larger than the client's Maximum "
                            "Packet Size");
        return;
    }
    log_accepted(link, p, present);
    connect_note(link, p);
    if (present)
        sys_owe(link);
    link_resume(link);
}

/* ======================================================================== */
/* 20  packets from clients                                                 */
/* ======================================================================== */

/* Resolves the Topic Alias of a PUBLISH, or sets it.  -1: the link failed.
 * Aliases live as long as the link [MQTT-3.3.2-7]; each from 1 to our
 * maximum may be used [MQTT-3.3.2-12]. */
static int publish_alias(struct session_link *link, struct mqtt_packet *p)
{
    struct session_server *s = link->server;
    uint16_t alias = p->props.topic_alias, max = s->opt.alias_max;
    if (!MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS))
        return 0;
    if (alias > max) {
        link_fail_at(link, MQTT_TOPIC_ALIAS_INVALID,
                     max == 0 ? "MQTT-3.2.2-18" : "MQTT-3.2.2-17",
                     property_offset(link, &p->props, MQTT_TOPIC_ALIAS),
                     "Topic Alias above the server's Topic Alias Maximum");
        return -1;
    }
    if (link->alias_in == NULL)
        link->alias_in = mem_new((max + 1u) * sizeof *link->alias_in);
    struct text *known = &link->alias_in[alias];
    if (p->publish.topic.n > 0) {
        text_free(known);
        *known = text_copy(p->publish.topic);
    } else if (known->n == 0) {
        link_fail_at(link, MQTT_PROTOCOL_ERROR, "MQTT-3.3.2-7",
                     property_offset(link, &p->props, MQTT_TOPIC_ALIAS),
                     "Topic Alias was not set on this connection");
        return -1;
    } else {
        p->publish.topic = bytes_of(known);
    }
    return 0;
}

/* Counts a PUBLISH against our Receive Maximum [MQTT-3.3.4-7].  QoS 1 ones
 * count until output leaves again: without an answer in between, the client
 * has all of them open at once.  -1: the link failed. */
static int publish_count(struct session_link *link, struct rx *rx, uint8_t qos)
{
    uint32_t open = link->publishing + link->burst;
    if (qos == 0 || (rx != NULL && rx->here))
        return 0;
    if (open >= link->server->opt.receive_max) {
        link_fail_at(link, MQTT_RECEIVE_MAXIMUM_EXCEEDED, "MQTT-3.3.4-7",
                     NO_BYTE,
                     "more QoS 1 and 2 messages than the server's Receive "
                     "Maximum are unfinished");
        return -1;
    }
    if (qos == 1)
        link->burst++;
    return 0;
}

/* Where the topic of a PUBLISH stands in it, or the alias that it came by. */
static size_t topic_offset(const struct session_link *link,
                           const struct mqtt_packet *p)
{
    if (MQTT_HAS(&p->props, MQTT_TOPIC_ALIAS) &&
        p->publish.topic.p == link->alias_in[p->props.topic_alias].p)
        return property_offset(link, &p->props, MQTT_TOPIC_ALIAS);
    return packet_offset(link, p->publish.topic);
}

/* May this message be taken?  0, or -1: *err says why not.  No numbered
 * statement covers what is checked here. */
static int publish_check(const struct session_link *link,
                         const struct mqtt_packet *p, struct mqtt_error *err)
{
    const struct session_server *s = link->server;
    struct mqtt_bytes payload = p->publish.payload;
    int keep = p->publish.retain && payload.n > 0;
    err->statement = "";
    err->offset = NO_BYTE;
    if (topic_reserved(p->publish.topic)) {
        err->reason = MQTT_NOT_AUTHORIZED;
        err->offset = topic_offset(link, p);
        err->what = "topics that begin with $SYS/ are the server's (4.7.2)";
    } else if (payload_format_wrong(&p->props, payload)) {
        err->reason = MQTT_PAYLOAD_FORMAT_INVALID;
        err->offset = packet_offset(link, payload) +
                      mqtt_utf8_check(payload.p, payload.n);
        err->what = "Payload Format Indicator 1, but the payload is not UTF-8 "
                    "(3.3.2.3.2)";
    } else if (keep && !topic_fits(s, p->publish.topic)) {
        err->reason = MQTT_QUOTA_EXCEEDED;
        err->offset = topic_offset(link, p);
        err->what = "no room for another retained topic";
    } else if ((p->publish.qos > 0 || keep) && store_full(s->store)) {
        err->reason = MQTT_QUOTA_EXCEEDED;
        err->what = "the server's disk is full";
    } else {
        return 0;
    }
    return -1;
}

/* A message is not taken: PUBACK or PUBREC says why; at QoS 0 only the log
 * can, but for a wrong payload, which ends the connection. */
static void publish_refuse(struct session_link *link,
                           const struct mqtt_packet *p,
                           const struct mqtt_error *err)
{
    static const uint8_t answer[] = {MQTT_PUBLISH, MQTT_PUBACK, MQTT_PUBREC};
    uint8_t qos = p->publish.qos;
    char why[WHY_MAX];
    if (qos == 0 && err->reason == MQTT_PAYLOAD_FORMAT_INVALID) {
        link_fail(link, err);
        return;
    }
    error_print(why, err);
    log_refusal(link, answer[qos], err->reason, why);
    log_end_name(link->server, p->publish.topic);
    if (qos > 0)
        link_ack(link, answer[qos], p->publish.packet_id, err->reason, why);
}

static void publish_note(struct session_link *link,
                         const struct mqtt_packet *p)
{
    if (p->publish.topic.p[0] == '/')
        note(link, HABIT_SLASH);
    if (MQTT_HAS(&p->props, MQTT_MESSAGE_EXPIRY_INTERVAL) &&
        p->props.message_expiry_interval == 0)
        note(link, HABIT_MESSAGE_EXPIRY_0);
}

static size_t publish_route(struct session_link *link,
                            const struct mqtt_packet *p)
{
    struct session_server *s = link->server;
    struct buf kept = {0};
    struct inbound in;
    memset(&in, 0, sizeof in);
    in.topic = p->publish.topic;
    in.payload = p->publish.payload;
    in.properties = properties_passed_on(&kept, &p->props);
    in.qos = p->publish.qos;
    in.retain = p->publish.retain;
    in.from = link->session;
    if (MQTT_HAS(&p->props, MQTT_MESSAGE_EXPIRY_INTERVAL))
        in.expires =
            s->now + (uint64_t)p->props.message_expiry_interval * 1000;
    size_t matched = message_route(s, &in);
    buf_free(&kept);
    return matched;
}

/* PUBLISH [MQTT-3.3.4-1]: QoS 1 is answered by PUBACK [MQTT-4.3.2-4], QoS 2
 * by PUBREC [MQTT-4.3.3-8]; both leave after the commit. */
static void on_publish(struct session_link *link, struct mqtt_packet *p)
{
    struct session *session = link->session;
    uint8_t qos = p->publish.qos;
    uint16_t id = p->publish.packet_id;
    uint8_t reason = MQTT_SUCCESS;
    struct mqtt_error err;
    struct rx *rx = qos == 2 ? rx_find(session, id) : NULL;
    if (publish_alias(link, p) != 0 || publish_count(link, rx, qos) != 0)
        return;
    if (rx != NULL) { /* a repeat: not routed again [MQTT-4.3.3-10] */
        link->publishing += !rx->here;
        rx->here = 1;
        link_ack(link, MQTT_PUBREC, id, MQTT_SUCCESS, NULL);
        return;
    }
    if (publish_check(link, p, &err) != 0) {
        publish_refuse(link, p, &err);
        return;
    }
    publish_note(link, p);
    if (publish_route(link, p) == 0)
        reason = MQTT_NO_MATCHING_SUBSCRIBERS;
    if (qos == 1)
        link_ack(link, MQTT_PUBACK, id, reason, NULL);
    if (qos == 2) {
        rx = rx_add(session, id);
        rx->here = 1;
        rx->order = ++session->rx_order;
        link->publishing++;
        session_note(link->server, "rx", session, id, STORE_NOW);
        link_ack(link, MQTT_PUBREC, id, reason, NULL);
    }
}

/* A packet of an exchange that is not open: who answers a PUBLISH repeats its
 * Packet Identifier [MQTT-2.2.1-5].  That is not said of a PUBCOMP, which may
 * answer our PUBREL 0x92, nor in a resumed session, where it may be about an
 * earlier connection.  answer: the packet that says 0x92 to the client, or 0:
 * none does. */
static void link_unknown_id(struct session_link *link,
                            const struct mqtt_packet *p, uint8_t answer)
{
    struct session_server *s = link->server;
    struct mqtt_error err = {MQTT_PACKET_IDENTIFIER_NOT_FOUND, "MQTT-2.2.1-5",
                             header_size(link),
                             "no delivery that waits for this packet has its "
                             "Packet Identifier"};
    char why[WHY_MAX];
    if (p->type == MQTT_PUBCOMP || link->resumed)
        err.statement = "";
    if (p->type == MQTT_PUBREL) {
        err.statement = ""; /* a repeat of it is no error (3.7.2.1) */
        err.what = "no QoS 2 message with this Packet Identifier is open; "
                   "after a lost PUBCOMP that is no error (3.7.2.1)";
    }
    error_print(why, &err);
    if (answer != 0) {
        log_refusal(link, answer, err.reason, why);
    } else {
        log_begin(s, link->session, link);
        log_add(s, "%s ignored: %s", mqtt_type_name(p->type), why);
    }
    log_end(s, ", Packet Identifier %u", (unsigned)p->packet_id);
    if (answer != 0)
        link_ack(link, answer, p->packet_id, err.reason, why);
}

/* PUBREL: the id is free, the exchange done [MQTT-4.3.3-11]
 * [MQTT-4.3.3-13].  The ledger knows it before PUBCOMP leaves, or the next
 * message under this id would be taken for a repeat [MQTT-4.3.3-12]. */
static void on_pubrel(struct session_link *link, const struct mqtt_packet *p)
{
    struct session *session = link->session;
    struct rx *rx = rx_find(session, p->packet_id);
    if (rx == NULL) {
        link_unknown_id(link, p, MQTT_PUBCOMP);
        return;
    }
    link->publishing -= rx->here;
    rx_del(session, rx);
    session_note(link->server, "rel", session, p->packet_id, STORE_NOW);
    link_ack(link, MQTT_PUBCOMP, p->packet_id, MQTT_SUCCESS, NULL);
}

/* A delivery is finished: its id and its place in the window are free. */
static void flight_end(struct session_link *link, struct flight *f)
{
    struct entry e = f->entry;
    link->flying -= f->here;
    flight_del(link->session, f);
    delivery_end(link->server, e, STORE_LATER);
    session_wake(link->server, link->session);
}

/* The flight with this id, if it is at QoS 1 or 2 as asked and in one of the
 * stages from..to, in the order of enum stage. */
static struct flight *flight_at(struct session_link *link, uint16_t packet_id,
                                uint8_t qos, enum stage from, enum stage to)
{
    struct flight *f = flight_find(link->session, packet_id);
    if (f == NULL)
        return NULL;
    const struct receiver *r = entry_receiver(link->server, f->entry);
    return r->qos == qos && r->stage >= from && r->stage <= to ? f : NULL;
}

/* The client refuses a message: it is not sent again [MQTT-4.4.0-2]. */
static void log_refused_by_client(struct session_link *link,
                                  const struct mqtt_packet *p)
{
    struct session_server *s = link->server;
    log_begin(s, link->session, link);
    log_add(s, "the client refuses a message with %s 0x%02X %s [MQTT-4.4.0-2]",
            mqtt_type_name(p->type), (unsigned)p->reason,
            mqtt_reason_name(p->type, p->reason));
    log_end(s, ", Packet Identifier %u", (unsigned)p->packet_id);
}

/* PUBACK, whatever its code, settles the message [MQTT-4.4.0-2]
 * [MQTT-4.3.2-3] [MQTT-4.8.2-6]; one for an unknown id has no answer. */
static void on_puback(struct session_link *link, const struct mqtt_packet *p)
{
    struct flight *f =
        flight_at(link, p->packet_id, 1, STAGE_SENT, STAGE_SENT);
    if (f == NULL) {
        link_unknown_id(link, p, 0);
        return;
    }
    if (p->reason >= 0x80)
        log_refused_by_client(link, p);
    flight_end(link, f);
}

/* PUBREC: below 0x80 the message is with the client and PUBREL follows
 * [MQTT-4.3.3-4]; otherwise it is settled [MQTT-4.4.0-2]. */
static void on_pubrec(struct session_link *link, const struct mqtt_packet *p)
{
    struct flight *f =
        flight_at(link, p->packet_id, 2, STAGE_SENT, STAGE_RELEASED);
    if (f == NULL) {
        link_unknown_id(link, p, p->reason < 0x80 ? MQTT_PUBREL : 0);
        return;
    }
    struct receiver *r = entry_receiver(link->server, f->entry);
    if (p->reason >= 0x80) {
        log_refused_by_client(link, p);
        flight_end(link, f);
        return;
    }
    if (!f->here) { /* it answers an earlier connection's PUBLISH */
        f->here = 1;
        link->flying++;
    }
    if (r->stage == STAGE_SENT) {
        r->stage = STAGE_RELEASED;
        /* in the ledger before PUBREL leaves: after that the PUBLISH must
         * not be sent again [MQTT-4.3.3-6] */
        delivery_note(link->server, "rec", r, STORE_NOW);
    }
    link_ack(link, MQTT_PUBREL, p->packet_id, MQTT_SUCCESS, NULL);
}

static void on_pubcomp(struct session_link *link, const struct mqtt_packet *p)
{
    struct flight *f =
        flight_at(link, p->packet_id, 2, STAGE_RELEASED, STAGE_RELEASED);
    if (f != NULL)
        flight_end(link, f);
    else
        link_unknown_id(link, p, 0);
}

/* What a Topic Filter may be: 0, or -1: *err says what is wrong. */
static int filter_parse(const struct session_link *link,
                        struct mqtt_bytes whole, struct mqtt_bytes *filter,
                        struct mqtt_error *err)
{
    struct mqtt_bytes share;
    if (mqtt_topic_filter_parse(whole, &share, filter, err) == 0)
        return 0;
    err->offset += packet_offset(link, whole);
    return -1;
}

/* One filter is refused: a line for each; why is the answer's Reason String,
 * and tells of the first. */
static void filter_refuse(struct session_link *link, uint8_t type,
                          const struct mqtt_error *err,
                          struct mqtt_bytes filter, char why[WHY_MAX])
{
    char this[WHY_MAX];
    error_print(this, err);
    log_refusal(link, type, err->reason, this);
    log_end_name(link->server, filter);
    if (why[0] == '\0')
        memcpy(why, this, sizeof this);
}

static void subscribe_note(struct session_link *link,
                           const struct mqtt_subscription *ask)
{
    if (ask->filter.p[0] == '/')
        note(link, HABIT_SLASH);
    if (bytes_same(ask->filter, bytes_literal("#")))
        note(link, HABIT_ALL_TOPICS);
    if (ask->qos == 0 && link->session->expiry > 0)
        note(link, HABIT_QOS_0);
}

/* Makes or replaces one subscription; returns its Reason Code, and if that is
 * a refusal *err [MQTT-3.8.4-3] [MQTT-3.8.4-7]. */
static uint8_t subscribe_one(struct session_link *link,
                             const struct mqtt_subscription *ask, uint32_t id,
                             struct mqtt_error *err)
{
    struct session_server *s = link->server;
    struct mqtt_bytes filter;
    if (filter_parse(link, ask->filter, &filter, err) != 0)
        return err->reason;
    struct sub *sub = sub_find(s, link->session, ask->filter);
    int existed = sub != NULL;
    err->reason = MQTT_SUCCESS;
    err->statement = "";
    err->offset = NO_BYTE;
    if (s->work - s->packet_work > WORK_PACKET) {
        err->reason = MQTT_QUOTA_EXCEEDED;
        err->what = "more than one SUBSCRIBE may ask for";
    } else if (!existed && !topic_fits(s, filter)) {
        err->reason = MQTT_QUOTA_EXCEEDED;
        err->what = "no room for another Topic Filter";
    } else if (!existed && store_full(s->store)) {
        err->reason = MQTT_QUOTA_EXCEEDED;
        err->what = "the server's disk is full";
    }
    if (err->reason != MQTT_SUCCESS)
        return err->reason;
    size_t nodes = s->topics.count;
    if (!existed)
        sub = sub_new(s, link->session, ask->filter);
    s->work += s->topics.count - nodes + 1;
    sub->qos = ask->qos;
    sub->no_local = ask->no_local;
    sub->retain_as_published = ask->retain_as_published;
    sub->retain_handling = ask->retain_handling;
    sub->id = id;
    sub_write(s, sub, WRITE_NEW, STORE_NOW);
    subscribe_note(link, ask);
    if (sub->share != NULL)
        note(link, HABIT_SHARED);
    if (retained_wanted(sub, existed)) { /* [MQTT-3.8.4-4] */
        retained_send_all(s, sub);
        sys_ask(s, sub);
    }
    return sub->qos;
}

/* One Reason Code for each filter, in their order [MQTT-3.8.4-5]
 * [MQTT-3.8.4-6] [MQTT-3.9.3-1] [MQTT-3.9.3-2], in one SUBACK under the same
 * id [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-2.2.1-6]. */
static void link_answer_list(struct session_link *link, uint8_t type,
                             uint16_t packet_id, const struct buf *codes,
                             const char *why)
{
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = type;
    p.packet_id = packet_id;
    p.list.p = codes->p;
    p.list.n = codes->n;
    if (why[0] != '\0' && link->problem_information) {
        p.props.has = (uint64_t)1 << MQTT_REASON_STRING;
        p.props.reason_string = bytes_literal(why);
    }
    for (size_t i = 0; i < codes->n; i++)
        link->server->figures.refused[codes->p[i]] += codes->p[i] >= 0x80;
    /* it cannot be left out, and it cannot be sent [MQTT-3.1.2-24] */
    if (!link_send(link, &p))
        link_disconnect(link, MQTT_PACKET_TOO_LARGE, "MQTT-3.1.2-24",
                        "the answer is larger than the client's Maximum "
                        "Packet Size",
                        DETACH_LOST);
}

static void on_subscribe(struct session_link *link,
                         const struct mqtt_packet *p)
{
    struct mqtt_bytes rest = p->list;
    struct mqtt_subscription ask;
    struct buf codes = {0};
    struct mqtt_error err;
    char why[WHY_MAX] = "";
    uint32_t id = 0;
    if (MQTT_HAS(&p->props, MQTT_SUBSCRIPTION_IDENTIFIER))
        id = p->props.subscription_identifier;
    while (mqtt_subscribe_next(&rest, &ask)) {
        uint8_t code = subscribe_one(link, &ask, id, &err);
        buf_add(&codes, &code, 1);
        if (code >= 0x80)
            filter_refuse(link, MQTT_SUBACK, &err, ask.filter, why);
    }
    link_answer_list(link, MQTT_SUBACK, p->packet_id, &codes, why);
    sys_answer(link);
    buf_free(&codes);
}

/* Removes a subscription whose filter is the same in every character
 * [MQTT-3.10.4-1]; what is queued stays queued [MQTT-3.10.4-3]. */
static uint8_t unsubscribe_one(struct session_link *link,
                               struct mqtt_bytes filter,
                               struct mqtt_error *err)
{
    struct session_server *s = link->server;
    struct mqtt_bytes rest;
    if (filter_parse(link, filter, &rest, err) != 0)
        return err->reason;
    struct sub *sub = sub_find(s, link->session, filter);
    if (sub == NULL)
        return MQTT_NO_SUBSCRIPTION_EXISTED;
    if (link->session->durable) {
        store_record_begin(s->store, "unsub");
        store_record_number(s->store, "session", link->session->id);
        store_record_text(s->store, "filter", filter.p, filter.n);
        store_record_end(s->store, STORE_NOW);
    }
    sub_del(s, sub);
    return MQTT_SUCCESS;
}

/* [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
 * [MQTT-3.11.3-2] */
static void on_unsubscribe(struct session_link *link,
                           const struct mqtt_packet *p)
{
    struct mqtt_bytes rest = p->list, filter;
    struct buf codes = {0};
    struct mqtt_error err;
    char why[WHY_MAX] = "";
    while (mqtt_unsubscribe_next(&rest, &filter)) {
        uint8_t code = unsubscribe_one(link, filter, &err);
        buf_add(&codes, &code, 1);
        if (code >= 0x80)
            filter_refuse(link, MQTT_UNSUBACK, &err, filter, why);
    }
    link_answer_list(link, MQTT_UNSUBACK, p->packet_id, &codes, why);
    buf_free(&codes);
}

/* DISCONNECT: 0x00 takes the will back [MQTT-3.14.4-3], any other code is an
 * end like a lost connection; either may change the Session Expiry Interval,
 * but not raise it from 0 (3.14.2.2.2). */
static void on_disconnect(struct session_link *link,
                          const struct mqtt_packet *p)
{
    struct session_server *s = link->server;
    struct session *session = link->session;
    if (MQTT_HAS(&p->props, MQTT_SESSION_EXPIRY_INTERVAL)) {
        uint32_t expiry = p->props.session_expiry_interval;
        if (link->expiry_zero && expiry > 0) {
            link_fail_at(link, MQTT_PROTOCOL_ERROR, "",
                         property_offset(link, &p->props,
                                         MQTT_SESSION_EXPIRY_INTERVAL),
                         "Session Expiry Interval raised from 0 in DISCONNECT "
                         "(3.14.2.2.2)");
            return;
        }
        session->expiry = expiry < s->opt.expiry_max ? expiry
                                                     : s->opt.expiry_max;
    }
    enum detach how = p->reason == MQTT_NORMAL_DISCONNECTION ? DETACH_CLEAN
                                                             : DETACH_LOST;
    log_begin(s, session, link);
    log_add(s, "left with DISCONNECT 0x%02X %s", (unsigned)p->reason,
            mqtt_reason_name(MQTT_DISCONNECT, p->reason));
    if (MQTT_HAS(&p->props, MQTT_REASON_STRING)) {
        buf_text(&s->log, " ");
        name_add(&s->log, p->props.reason_string);
    }
    log_fate(s, session, how);
    log_end(s, "");
    link_finish(link, how);
}

/* ======================================================================== */
/* 21  input                                                                */
/* ======================================================================== */

static void on_ping(struct session_link *link)
{
    struct mqtt_packet p;
    memset(&p, 0, sizeof p);
    p.type = MQTT_PINGRESP; /* [MQTT-3.12.4-1] */
    link_send(link, &p);
}

/* One packet of an accepted connection. */
static void link_packet(struct session_link *link, struct mqtt_packet *p)
{
    switch (p->type) {
    case MQTT_PUBLISH:
        on_publish(link, p);
        break;
    case MQTT_PUBACK:
        on_puback(link, p);
        break;
    case MQTT_PUBREC:
        on_pubrec(link, p);
        break;
    case MQTT_PUBREL:
        on_pubrel(link, p);
        break;
    case MQTT_PUBCOMP:
        on_pubcomp(link, p);
        break;
    case MQTT_SUBSCRIBE:
        on_subscribe(link, p);
        break;
    case MQTT_UNSUBSCRIBE:
        on_unsubscribe(link, p);
        break;
    case MQTT_PINGREQ:
        on_ping(link);
        break;
    case MQTT_DISCONNECT:
        on_disconnect(link, p);
        break;
    case MQTT_AUTH:
        link_fail_at(link, MQTT_PROTOCOL_ERROR, "MQTT-4.12.0-7", 0,
                     "AUTH, but CONNECT named no Authentication Method");
        break;
    case MQTT_CONNECT:
        link_fail_at(link, MQTT_PROTOCOL_ERROR, "MQTT-3.1.0-2", 0,
                     "a second CONNECT on one connection");
        break;
    default: /* the codec lets no packet through that only servers send */
        link_fail_at(link, MQTT_PROTOCOL_ERROR, "", 0,
                     "a packet that only a server sends");
        break;
    }
}

/* The first bytes of a connection: CONNECT it must be [MQTT-3.1.0-1].  1 =
 * the link is done with. */
static int link_greet(struct session_link *link)
{
    static const uint8_t old_refusal[] = {0x20, 0x02, 0x00, 0x01};
    const uint8_t *p = link->in.p;
    struct mqtt_error err = {MQTT_PROTOCOL_ERROR, "MQTT-3.1.0-1", 0,
                             "the first packet is not CONNECT"};
    if (mqtt_connect_version(p, link->in.n) == 3) {
        buf_add(&link->out, old_refusal, sizeof old_refusal);
        link->server->out_bytes += sizeof old_refusal;
        err.statement = "MQTT-3.1.2-2";
        /* the version stands behind the name and its length */
        err.offset = header_size(link);
        err.offset += 2u + p[err.offset + 1];
        err.what = "an MQTT 3.1 or 3.1.1 client, answered in its own way "
                   "(20 02 00 01); this server speaks MQTT 5.0";
    } else if (link->in.n > 1 && p[0] == 0x16 && p[1] == 0x03) {
        err.what = "this looks like TLS, which the server does not offer";
    } else if (p[0] >> 4 == MQTT_CONNECT) {
        return 0;
    }
    trace_fault(link, &err, link->in.n);
    link_close_silently(link, err.statement, err.offset, err.what);
    return 1;
}

/* Takes one packet out of the link's input.  0 = no whole packet is there,
 * or the link is done with. */
static int link_take(struct session_link *link)
{
    struct session_server *s = link->server;
    struct mqtt_packet p;
    struct mqtt_error err;
    size_t size = 0;
    s->packet_work = s->work++;
    uint32_t max = s->opt.packet_max;
    if (link->state == LINK_DONE || link->in.n == 0 ||
        (link->state == LINK_NEW && link_greet(link)))
        return 0;
    if (link->state == LINK_NEW && max > CONNECT_MAX)
        max = CONNECT_MAX;
    switch (mqtt_frame_find(link->in.p, link->in.n, max, MQTT_FROM_CLIENT,
                            &size, &err)) {
    case MQTT_FRAME_MORE:
        return 0;
    case MQTT_FRAME_COMPLETE:
        break;
    default:
        if (link->state == LINK_NEW && err.reason == MQTT_PACKET_TOO_LARGE) {
            /* CONNACK would have announced the limit of [MQTT-3.2.2-15] */
            err.statement = "MQTT-3.1.4-2";
            err.what = "the CONNECT is larger than this server takes";
        }
        trace_fault(link, &err, link->in.n);
        link_fail(link, &err);
        return 0;
    }
    marks_silence(link);
    link->heard = s->now; /* [MQTT-3.1.2-22] */
    if (mqtt_packet_decode(&p, link->in.p, size, MQTT_FROM_CLIENT, &err) != 0) {
        /* What CONNECT said before its mistake counts [MQTT-3.1.2-24]. */
        if (link->state == LINK_NEW && p.props.maximum_packet_size > 0)
            link->packet_max = p.props.maximum_packet_size;
        trace_fault(link, &err, size);
        link_fail(link, &err);
    } else {
        count_packet(s->figures.received, &p,
                     &s->figures.publish_bytes_received);
        trace_packet(link, MQTT_FROM_CLIENT, &p, link->in.p, size);
        marks_packet(link, &p, size);
        if (link->state == LINK_NEW)
            on_connect(link, &p);
        else
            link_packet(link, &p);
    }
    buf_take(&link->in, size);
    link->begun = s->now; /* the next one, if its first byte is there */
    return link->state != LINK_DONE; /* [MQTT-3.1.4-6] */
}

/* Puts a link behind those whose input waits for the next turn. */
static void link_hold(struct session_link *link)
{
    struct session_server *s = link->server;
    link->heard = s->now; /* it has spoken, though not yet been listened to */
    if (link->held)
        return;
    link->held = 1;
    link->next_held = NULL;
    if (s->held == NULL)
        s->held = link;
    else
        s->held_last->next_held = link;
    s->held_last = link;
}

static void link_unhold(struct session_link *link)
{
    struct session_server *s = link->server;
    struct session_link **at = &s->held, *before = NULL;
    if (!link->held)
        return;
    while (*at != link) {
        before = *at;
        at = &before->next_held;
    }
    *at = link->next_held;
    if (s->held_last == link)
        s->held_last = before;
    link->held = 0;
}

/* Handles a link's input as far as its share of the turn goes: nobody may
 * keep the others waiting, nor make a turn's batch larger than the room that
 * is kept free for it. */
static void link_run(struct session_link *link)
{
    struct session_server *s = link->server;
    uint64_t start = s->work;
    while (s->work - start < WORK_LINK &&
           store_pending(s->store) < PENDING_MAX) {
        if (!link_take(link)) {
            if (link->state == LINK_DONE)
                buf_free(&link->in);
            buf_rest(&link->in);
            return;
        }
    }
    if (link->in.n > 0)
        link_hold(link);
}

/* Goes on with the links whose input had to wait, each once. */
static void server_listen(struct session_server *s)
{
    struct session_link *last = s->held_last, *link = NULL;
    while (s->held != NULL && link != last &&
           store_pending(s->store) < PENDING_MAX) {
        link = s->held;
        link_unhold(link);
        link_run(link);
    }
}

/* ======================================================================== */
/* 22  turn and timers                                                      */
/* ======================================================================== */

static void link_timer(struct session_link *link)
{
    struct session_server *s = link->server;
    if (link->state == LINK_NEW) {
        link_close_silently(link, "", NO_BYTE, "no CONNECT in time (3.1.4)");
        return;
    }
    if (link->heard + link->silence > s->now) {
        timer_set(s, &link->timer, link->heard + link->silence);
        return;
    }
    marks_timeout(link);
    link_disconnect(link, MQTT_KEEP_ALIVE_TIMEOUT, "MQTT-3.1.2-22",
                    "no packet within one and a half times the Keep Alive",
                    DETACH_LOST);
}

static void session_expire(struct session_server *s, struct session *session)
{
    char why[80];
    snprintf(why, sizeof why,
             ": its Session Expiry Interval of %lu s passed [MQTT-4.1.0-2]",
             (unsigned long)session->expiry);
    s->figures.expired++;
    /* a will that goes out with its session must not come twice
     * [MQTT-3.1.2-10] */
    session_end(s, session,
                session->will.body.p != NULL ? STORE_NOW : STORE_LATER, why);
}

static void timer_fire(struct session_server *s, struct timer *t)
{
    struct session *session;
    switch ((enum timer_kind)t->kind) {
    case TIMER_LINK:
        link_timer(OWNER(struct session_link, timer, t));
        break;
    case TIMER_EXPIRY:
        session_expire(s, OWNER(struct session, expire, t));
        break;
    case TIMER_WILL:
        session = OWNER(struct session, will_timer, t);
        log_begin(s, session, NULL);
        log_end(s, "its will is published: its Will Delay Interval of %lu s "
                   "passed [MQTT-3.1.2-8]",
                (unsigned long)session->will.delay);
        will_publish(s, session);
        session_write(s, session, WRITE_NEW, STORE_NOW);
        break;
    case TIMER_MESSAGE:
        message_expire(s, OWNER(struct message, expiry, t));
        break;
    }
}

static void timers_run(struct session_server *s, struct heap *h)
{
    while (heap_due(h) <= s->now) {
        struct timer *t = h->at[0];
        timer_stop(s, t);
        timer_fire(s, t);
    }
}

/* Every entry point brings the time: what has fallen due comes first, so
 * that nobody resumes a session that has expired.  Keep Alives do not: what a
 * client has sent may still wait to be read in this turn. */
static void server_clock(struct session_server *s, uint64_t now)
{
    if (now > s->now)
        s->now = now;
    log_clock(s);
    sys_step(s);
    timers_run(s, &s->timers);
}

static void server_serve(struct session_server *s)
{
    while (s->dirty_n > 0) {
        struct session *session = session_at(s, s->dirty[--s->dirty_n]);
        if (session == NULL || !session->dirty)
            continue;
        session->dirty = 0;
        if (session->link != NULL)
            session_serve(s, session);
    }
}

/* Writes the object that cleaning asks for anew, with its body.  -1: the
 * ledger cannot give the body back. */
static int object_fold(struct session_server *s, struct store_object *o)
{
    struct mqtt_bytes none = {NULL, 0}, body;
    struct mqtt_packet view;
    struct message *m;
    switch ((enum object_kind)o->kind) {
    case OBJECT_COUNTERS:
        counters_write(s, WRITE_FOLD);
        break;
    case OBJECT_SESSION:
        session_write(s, OWNER(struct session, object, o), WRITE_FOLD,
                      STORE_LATER);
        break;
    case OBJECT_SUB:
        sub_write(s, OWNER(struct sub, object, o), WRITE_FOLD, STORE_LATER);
        break;
    case OBJECT_MESSAGE:
        m = OWNER(struct message, object, o);
        if (message_open(s, m, &view, &body) != 0)
            return -1;
        struct text topic = text_copy(view.publish.topic);
        message_write(s, m, WRITE_FOLD, STORE_LATER, bytes_of(&topic), none);
        text_free(&topic);
        break;
    }
    return 0;
}

/* ======================================================================== */
/* 23  replay: the fields of a record                                       */
/* ======================================================================== */

/* Fields that hold a number, by their place in struct fields. */
enum number_field {
    F_ID, F_SESSION, F_SEQ, F_AT, F_EXPIRES, F_QOS, F_RETAIN, F_EXPIRY,
    F_OFFLINE, F_NL, F_RAP, F_RH, F_S, F_N, F_WILL_QOS, F_WILL_RETAIN,
    F_WILL_DELAY, F_WILL_EXPIRY, F_WILL_DUE, F_NEXT_SESSION, F_NEXT_MESSAGE,
    F_COUNT
};

static const struct {
    const char *key;
    uint64_t max;
} number_fields[F_COUNT] = {
    {"id", UINT32_MAX},        {"session", UINT32_MAX},
    {"seq", UINT64_MAX},       {"at", UINT64_MAX},
    {"expires", UINT64_MAX},   {"qos", 2},
    {"retain", 1},             {"expiry", UINT32_MAX},
    {"offline", UINT64_MAX},   {"nl", 1},
    {"rap", 1},                {"rh", 2},
    {"s", UINT32_MAX},         {"n", UINT32_MAX},
    {"will-qos", 2},           {"will-retain", 1},
    {"will-delay", UINT32_MAX}, {"will-expiry", UINT32_MAX},
    {"will-due", UINT64_MAX},  {"next-session", UINT32_MAX},
    {"next-message", UINT64_MAX}};

enum text_field { T_CLIENT, T_FILTER, T_TOPIC, T_FROM, T_COUNT };

static const char *const text_fields[T_COUNT] = {"client", "filter", "topic",
                                                 "from"};

/* A `to` field. */
struct to {
    uint64_t session; /* id */
    struct receiver r; /* without session; owns a reference to r.via */
};

/* The fields of one record. */
struct fields {
    uint64_t number[F_COUNT];
    uint32_t has; /* bit by enum number_field */
    struct buf text[T_COUNT];
    uint32_t text_has;
    uint16_t *rx;
    uint32_t rx_n, rx_cap;
    struct to *to;
    uint32_t to_n, to_cap;
    uint32_t via; /* of the `to` fields that follow; a reference */
};

struct replay {
    struct map sessions;   /* id to slot */
    struct map messages;   /* seq to slot */
    struct map deliveries; /* session id and place to message and receiver */
    struct fields f;
    struct store_record rec;
    struct buf lost; /* what an audit can tell of damaged records */
};

static struct mqtt_bytes fields_text(const struct fields *f, enum text_field t)
{
    struct mqtt_bytes b = {f->text[t].p, f->text[t].n};
    return b;
}

static uint64_t delivery_key(uint64_t session, uint64_t place)
{
    return session << 32 | place;
}

/* "1,2;$share/g/t", "1" or "-" */
static int fields_via(struct session_server *s, struct fields *f,
                      const struct store_field *field)
{
    const char *p = field->value, *end = p + field->n;
    struct mqtt_bytes share = {NULL, 0};
    uint32_t *ids = NULL, n = 0, cap = 0;
    via_give(s, f->via);
    f->via = 0;
    if (field->n == 1 && *p == '-')
        return 0;
    while (p < end && *p != ';') {
        uint64_t id = 0;
        const char *digits = p;
        for (; p < end && *p >= '0' && *p <= '9' && id < UINT32_MAX; p++)
            id = id * 10 + (uint64_t)(*p - '0');
        ids = array_room(ids, n, &cap, sizeof *ids);
        ids[n++] = (uint32_t)id;
        if (p == digits || (p < end && *p != ',' && *p != ';')) {
            free(ids);
            return -1;
        }
        p += p < end && *p == ',';
    }
    if (p < end) {
        share.p = (const uint8_t *)p + 1;
        share.n = (size_t)(end - p) - 1;
    }
    f->via = via_take(s, ids, n, share);
    free(ids);
    return 0;
}

/* The number up to the next ':' or the end. */
static int part_number(const char **p, const char *end, uint64_t max,
                       uint64_t *out)
{
    const char *start = *p;
    uint64_t x = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        x = x * 10 + (uint64_t)(**p - '0');
        if (x > max)
            return -1;
    }
    if (*p == start || (*p < end && **p != ':'))
        return -1;
    *p += *p < end;
    *out = x;
    return 0;
}

/* "<session>:<place>:<qos>:<retain>:<stage>:<packet id>" */
static int fields_to(struct session_server *s, struct fields *f,
                     const struct store_field *field)
{
    const char *p = field->value, *end = p + field->n;
    uint64_t session, place, qos, retain, id;
    struct to *to;
    if (part_number(&p, end, UINT32_MAX, &session) != 0 ||
        part_number(&p, end, UINT32_MAX, &place) != 0 ||
        part_number(&p, end, 2, &qos) != 0 ||
        part_number(&p, end, 1, &retain) != 0 || end - p < 3 || p[1] != ':')
        return -1;
    char stage = *p;
    p += 2;
    if (part_number(&p, end, 65535, &id) != 0 || p != end || session == 0 ||
        strchr("qsr", stage) == NULL || (stage != 'q' && id == 0))
        return -1;
    f->to = array_room(f->to, f->to_n, &f->to_cap, sizeof *f->to);
    to = &f->to[f->to_n++];
    memset(to, 0, sizeof *to);
    to->session = session;
    to->r.place = (uint32_t)place;
    to->r.qos = qos & 3u;
    to->r.retain = retain != 0;
    to->r.stage = stage == 'q'   ? STAGE_QUEUED
                  : stage == 's' ? STAGE_SENT
                                 : STAGE_RELEASED;
    to->r.packet_id = (uint16_t)id;
    to->r.stored = 1;
    to->r.via = f->via;
    if (f->via != 0)
        ((struct via *)s->vias.at[f->via])->refs++;
    return 0;
}

static int fields_rx(struct fields *f, const struct store_field *field)
{
    uint64_t id;
    if (store_field_number(field, 65535, &id) != 0 || id == 0)
        return -1;
    f->rx = array_room(f->rx, f->rx_n, &f->rx_cap, sizeof *f->rx);
    f->rx[f->rx_n++] = (uint16_t)id;
    return 0;
}

static int fields_add(struct session_server *s, struct fields *f,
                      const struct store_field *field)
{
    if (strcmp(field->key, "to") == 0)
        return fields_to(s, f, field);
    if (strcmp(field->key, "via") == 0)
        return fields_via(s, f, field);
    if (strcmp(field->key, "rx") == 0)
        return fields_rx(f, field);
    for (int i = 0; i < F_COUNT; i++) {
        if (strcmp(field->key, number_fields[i].key) == 0) {
            f->has |= 1u << i;
            return store_field_number(field, number_fields[i].max,
                                      &f->number[i]);
        }
    }
    for (int i = 0; i < T_COUNT; i++) {
        if (strcmp(field->key, text_fields[i]) == 0) {
            f->text_has |= 1u << i;
            buf_add(&f->text[i], field->value, field->n);
            return 0;
        }
    }
    return -1;
}

static void fields_clear(struct session_server *s, struct fields *f)
{
    for (uint32_t i = 0; i < f->to_n; i++)
        via_give(s, f->to[i].r.via);
    via_give(s, f->via);
    f->via = 0;
    f->to_n = f->rx_n = 0;
    f->has = f->text_has = 0;
    memset(f->number, 0, sizeof f->number);
    for (int i = 0; i < T_COUNT; i++)
        f->text[i].n = 0;
}

static void fields_free(struct session_server *s, struct fields *f)
{
    fields_clear(s, f);
    for (int i = 0; i < T_COUNT; i++)
        buf_free(&f->text[i]);
    free(f->rx);
    free(f->to);
}

/* ======================================================================== */
/* 24  replay: what each kind of record does                                */
/* ======================================================================== */

static struct session *replay_session(const struct session_server *s,
                                      const struct replay *r, uint64_t id)
{
    uint64_t slot = map_get(&r->sessions, id);
    return slot == 0 ? NULL : session_at(s, (uint32_t)slot);
}

/* The session of that id, made without a client if its record is yet to
 * come: cleaning may have moved it behind what refers to it. */
static struct session *replay_session_make(struct session_server *s,
                                           struct replay *r, uint64_t id)
{
    struct mqtt_bytes nobody = {NULL, 0};
    struct session *session = replay_session(s, r, id);
    if (session == NULL && id != 0) {
        session = session_new(s, id, nobody);
        map_put(&r->sessions, id, session->slot);
    }
    return session;
}

/* Frees a session as a record says that it ended.  Its deliveries are sorted
 * out at the end of the replay: their session is not found any more. */
static void replay_session_end(struct session_server *s, struct replay *r,
                               struct session *session)
{
    map_put(&r->sessions, session->id, 0);
    session->durable = 0;
    session->expiry = 0;
    session_end(s, session, STORE_LATER, NULL);
}

static int replay_session_record(struct session_server *s, struct replay *r)
{
    const struct fields *f = &r->f;
    struct mqtt_bytes client = fields_text(f, T_CLIENT);
    uint64_t id = f->number[F_ID];
    struct session *session = replay_session(s, r, id);
    if (id == 0 || client.n == 0)
        return -1;
    struct session *old = session_find(s, client);
    if (old != NULL && old != session)
        replay_session_end(s, r, old);
    if (session == NULL)
        session = replay_session_make(s, r, id);
    if (session->client.n == 0) {
        table_del(&s->clients, &session->node);
        text_free(&session->client);
        session->client = text_copy(client);
        table_add(&s->clients, &session->node, hash_bytes(s, client));
    }
    session->durable = 1;
    session->expiry = (uint32_t)f->number[F_EXPIRY];
    session->offline = f->number[F_OFFLINE];
    session->rx_n = 0;
    for (uint32_t i = 0; i < f->rx_n; i++)
        rx_add(session, f->rx[i]);
    session->will.qos = (uint8_t)f->number[F_WILL_QOS];
    session->will.retain = (uint8_t)f->number[F_WILL_RETAIN];
    session->will.delay = (uint32_t)f->number[F_WILL_DELAY];
    session->will.expiry = (uint32_t)f->number[F_WILL_EXPIRY];
    session->will.has_expiry = (f->has >> F_WILL_EXPIRY) & 1;
    session->will.due = f->number[F_WILL_DUE];
    store_object_adopt(s->store, &session->object, &r->rec);
    if (id >= s->next_session)
        s->next_session = id + 1;
    return 0;
}

static int replay_sub(struct session_server *s, struct replay *r)
{
    const struct fields *f = &r->f;
    struct session *session = replay_session_make(s, r, f->number[F_SESSION]);
    struct mqtt_bytes whole = fields_text(f, T_FILTER), share, filter;
    struct mqtt_error err;
    if (mqtt_topic_filter_parse(whole, &share, &filter, &err) != 0)
        return -1;
    if (session == NULL)
        return 0;
    struct sub *sub = sub_find(s, session, whole);
    if (sub == NULL)
        sub = sub_new(s, session, whole);
    sub->qos = (uint8_t)f->number[F_QOS];
    sub->no_local = (uint8_t)f->number[F_NL];
    sub->retain_as_published = (uint8_t)f->number[F_RAP];
    sub->retain_handling = (uint8_t)f->number[F_RH];
    sub->id = (uint32_t)f->number[F_ID];
    store_object_adopt(s->store, &sub->object, &r->rec);
    return 0;
}

/* Adds the record's receivers to the message.  They get into their sessions'
 * queues at the end of the replay. */
static void replay_receivers(struct session_server *s, struct replay *r,
                             struct message *m)
{
    for (uint32_t i = 0; i < r->f.to_n; i++) {
        struct to *to = &r->f.to[i];
        struct session *session = replay_session_make(s, r, to->session);
        if (session == NULL)
            continue;
        uint32_t at = receiver_take(m);
        m->to[at] = to->r;
        m->to[at].session = session->slot;
        to->r.via = 0; /* its reference is the receiver's now */
        m->live++;
        map_put(&r->deliveries, delivery_key(to->session, to->r.place),
                (uint64_t)m->slot << 32 | at);
        /* wrapping places compare by their distance */
        if (session->place == 0 ||
            (int32_t)(to->r.place - session->place) >= 0)
            session->place = to->r.place + 1;
    }
}

static void replay_message_reset(struct session_server *s, struct message *m)
{
    for (uint32_t i = 0; i < m->to_n; i++)
        via_give(s, m->to[i].via);
    if (m->to != &m->one)
        free(m->to);
    m->to = NULL;
    m->to_n = m->to_cap = m->live = m->used = m->spare = 0;
    if (m->retained_at != NULL)
        topic_tidy(s, retained_detach(s, m));
}

static int replay_message(struct session_server *s, struct replay *r)
{
    const struct fields *f = &r->f;
    struct mqtt_bytes topic = fields_text(f, T_TOPIC);
    uint64_t seq = f->number[F_SEQ];
    uint64_t slot = map_get(&r->messages, seq);
    struct message *m =
        slot != 0 ? message_at(s, (uint32_t)slot) : message_new(s, seq);
    if (seq == 0 || r->rec.body_len == 0)
        return -1;
    map_put(&r->messages, seq, m->slot);
    replay_message_reset(s, m);
    m->at = f->number[F_AT];
    m->qos = (uint8_t)f->number[F_QOS];
    if (f->number[F_EXPIRES] != 0)
        timer_set(s, &m->expiry, f->number[F_EXPIRES]);
    replay_receivers(s, r, m);
    if (f->number[F_RETAIN] && mqtt_topic_name_valid(topic)) {
        struct topic *t = topic_find(s, topic, 1);
        if (t->retained != NULL)
            retained_detach(s, t->retained);
        retained_put(s, t, m);
        m->from = text_copy(fields_text(f, T_FROM));
    }
    store_object_adopt(s->store, &m->object, &r->rec);
    if (seq >= s->next_message)
        s->next_message = seq + 1;
    return 0;
}

static int replay_unsub(struct session_server *s, struct replay *r)
{
    struct session *session =
        replay_session(s, r, r->f.number[F_SESSION]);
    struct sub *sub = session == NULL ? NULL
                                      : sub_find(s, session,
                                                 fields_text(&r->f, T_FILTER));
    if (sub != NULL)
        sub_del(s, sub);
    return 0;
}

static int replay_end(struct session_server *s, struct replay *r)
{
    struct session *session =
        replay_session(s, r, r->f.number[F_SESSION]);
    if (session != NULL)
        replay_session_end(s, r, session);
    return 0;
}

static int replay_rx(struct session_server *s, struct replay *r)
{
    struct session *session =
        replay_session(s, r, r->f.number[F_SESSION]);
    uint64_t id = r->f.number[F_ID];
    if (id == 0 || id > 65535)
        return -1;
    if (session == NULL)
        return 0;
    struct rx *rx = rx_find(session, (uint16_t)id);
    if (r->rec.kind[1] == 'x' && rx == NULL)
        rx_add(session, (uint16_t)id);
    else if (r->rec.kind[1] == 'e' && rx != NULL)
        rx_del(session, rx);
    return 0;
}

static int replay_deliver(struct session_server *s, struct replay *r)
{
    uint64_t slot = map_get(&r->messages, r->f.number[F_SEQ]);
    if (slot != 0)
        replay_receivers(s, r, message_at(s, (uint32_t)slot));
    return 0;
}

/* `send`, `rec`, `done`: a delivery moves on. */
static int replay_delivery(struct session_server *s, struct replay *r)
{
    const struct fields *f = &r->f;
    uint64_t key = delivery_key(f->number[F_S], f->number[F_N]);
    uint64_t at = map_get(&r->deliveries, key);
    uint64_t id = f->number[F_ID];
    if (at == 0)
        return 0;
    struct message *m = message_at(s, (uint32_t)(at >> 32));
    struct receiver *to = &m->to[at & UINT32_MAX];
    if (r->rec.kind[0] == 's') {
        if (id == 0 || id > 65535)
            return -1;
        to->stage = STAGE_SENT;
        to->packet_id = (uint16_t)id;
    } else if (r->rec.kind[0] == 'r') {
        to->stage = STAGE_RELEASED;
    } else {
        map_put(&r->deliveries, key, 0);
        via_give(s, to->via);
        to->via = 0;
        to->session = 0;
        to->stage = STAGE_GONE; /* given back at the end of the replay */
        m->live--;
    }
    return 0;
}

static int replay_clear(struct session_server *s, struct replay *r)
{
    struct topic *t = topic_find(s, fields_text(&r->f, T_TOPIC), 0);
    if (t != NULL && t->retained != NULL)
        topic_tidy(s, retained_detach(s, t->retained));
    return 0;
}

static int replay_counters(struct session_server *s, struct replay *r)
{
    if (r->f.number[F_NEXT_SESSION] > s->next_session)
        s->next_session = r->f.number[F_NEXT_SESSION];
    if (r->f.number[F_NEXT_MESSAGE] > s->next_message)
        s->next_message = r->f.number[F_NEXT_MESSAGE];
    store_object_adopt(s->store, &s->counters, &r->rec);
    return 0;
}

static const struct {
    const char *kind;
    int (*apply)(struct session_server *s, struct replay *r);
} replay_kinds[] = {
    {"message", replay_message}, {"send", replay_delivery},
    {"done", replay_delivery},   {"rec", replay_delivery},
    {"rx", replay_rx},           {"rel", replay_rx},
    {"deliver", replay_deliver}, {"session", replay_session_record},
    {"sub", replay_sub},         {"unsub", replay_unsub},
    {"end", replay_end},         {"clear", replay_clear},
    {"counters", replay_counters}};

/* Takes the fields of the record in r->rec.  -1: they make no sense. */
static int replay_fields(struct session_server *s, struct replay *r)
{
    struct store_field field;
    int more = 0;
    while ((more = store_field_next(s->store, &r->rec, &field)) > 0) {
        if (fields_add(s, &r->f, &field) != 0)
            return -1;
    }
    return more;
}

/* Applies the record in r->rec.  -1: it makes no sense. */
static int replay_record(struct session_server *s, struct replay *r)
{
    if (replay_fields(s, r) < 0)
        return -1;
    for (size_t i = 0; i < sizeof replay_kinds / sizeof *replay_kinds; i++) {
        if (strcmp(r->rec.kind, replay_kinds[i].kind) == 0)
            return replay_kinds[i].apply(s, r);
    }
    return -1;
}

/* What the kinds of records tell, for what may be lost. */
static const struct {
    const char *kind, *what;
} lost_kinds[] = {
    {"message", "a message"},
    {"session", "the state of a session"},
    {"sub", "a subscription"},
    {"unsub", "the end of a subscription"},
    {"end", "the end of a session"},
    {"rx", "that a QoS 2 message was received"},
    {"rel", "that a QoS 2 message was released"},
    {"deliver", "one more receiver of a message"},
    {"send", "that a message was sent"},
    {"rec", "that PUBREC came for a message"},
    {"done", "the end of a delivery"},
    {"clear", "the end of a retained message"},
    {"counters", "the next numbers to be given out"}};

static void tell_name(struct buf *out, const char *what,
                      struct mqtt_bytes name)
{
    if (name.n > 0) {
        buf_print(out, ", %s ", what);
        name_add(out, name);
    }
}

/* A session by its number, and by its name if that is known. */
static void lost_session(const struct session_server *s, struct replay *r,
                         uint64_t id)
{
    const struct session *session = replay_session(s, r, id);
    struct mqtt_bytes client = fields_text(&r->f, T_CLIENT);
    if (session != NULL && session->client.n > 0)
        client = bytes_of(&session->client);
    buf_print(&r->lost, ", session %llu", (unsigned long long)id);
    tell_name(&r->lost, "client", client);
}

/* What a record seems to be.  The fields are taken as far as they can be. */
static void lost_kind(struct session_server *s, struct replay *r)
{
    struct mqtt_bytes line = {(const uint8_t *)r->rec.next,
                              (size_t)(r->rec.end - r->rec.next)};
    size_t i = 0, kinds = sizeof lost_kinds / sizeof *lost_kinds;
    struct store_field field;
    while (i < kinds && strcmp(r->rec.kind, lost_kinds[i].kind) != 0)
        i++;
    buf_print(&r->lost, "perhaps %s",
              i < kinds ? lost_kinds[i].what : "a record");
    if (i == kinds)
        tell_name(&r->lost, r->rec.kind, line);
    while (i < kinds && store_field_next(s->store, &r->rec, &field) > 0)
        (void)fields_add(s, &r->f, &field);
}

/* The record stands in a damaged batch, and may itself be damaged: it is not
 * applied but told. */
static void replay_lost(struct session_server *s, struct replay *r)
{
    const struct fields *f = &r->f;
    lost_kind(s, r);
    if (f->number[F_SEQ] != 0)
        buf_print(&r->lost, ", message %llu",
                  (unsigned long long)f->number[F_SEQ]);
    tell_name(&r->lost, "topic", fields_text(f, T_TOPIC));
    if (f->number[F_SESSION] != 0 || f->number[F_S] != 0)
        lost_session(s, r, f->number[F_SESSION] | f->number[F_S]);
    else if (strcmp(r->rec.kind, "session") == 0)
        lost_session(s, r, f->number[F_ID]);
    if (f->has >> F_N & 1)
        buf_print(&r->lost, ", delivery %llu",
                  (unsigned long long)f->number[F_N]);
    tell_name(&r->lost, "filter", fields_text(f, T_FILTER));
    for (uint32_t k = 0; k < f->to_n; k++) {
        lost_session(s, r, f->to[k].session);
        buf_print(&r->lost, ", delivery %lu", (unsigned long)f->to[k].r.place);
    }
    buf_text(&r->lost, "\n");
}

/* ======================================================================== */
/* 25  replay: putting it together                                          */
/* ======================================================================== */

/* Puts a message's surviving receivers where they belong. */
static void replay_place(struct session_server *s, struct message *m)
{
    m->live = 0;
    for (uint32_t i = 0; i < m->to_n; i++) {
        struct receiver *to = &m->to[i];
        struct session *session =
            to->session != 0 ? session_at(s, to->session) : NULL;
        struct entry e = {m->slot, i};
        if (session == NULL) {
            via_give(s, to->via);
            memset(to, 0, sizeof *to);
            to->place = m->spare;
            m->spare = i + 1;
            m->used--;
            continue;
        }
        m->live++;
        s->figures.deliveries++;
        if (to->stage == STAGE_QUEUED) {
            session->queued[to->qos]++;
            queue_push(&session->queue, e);
        } else {
            flight_add(session, e, to->packet_id, 0);
        }
    }
    s->figures.message_bytes += message_bytes(m);
    message_check(s, m);
}

/* Sorts a session's queue: the log had it in the order of folds. */
static void replay_sort(struct session_server *s, struct session *session)
{
    struct queue *q = &session->queue;
    struct order *order;
    uint32_t last = 0, sorted = 1;
    for (uint32_t i = 0; i < q->n; i++) {
        uint32_t key = entry_receiver(s, *queue_entry(q, i))->place -
                       session->place;
        sorted = sorted && (i == 0 || key > last);
        last = key;
    }
    if (sorted)
        return;
    order = mem_grow(NULL, q->n * sizeof *order);
    for (uint32_t i = 0; i < q->n; i++) {
        order[i].entry = *queue_entry(q, i);
        order[i].key = entry_receiver(s, order[i].entry)->place -
                       session->place;
    }
    qsort(order, q->n, sizeof *order, order_compare);
    for (uint32_t i = 0; i < q->n; i++)
        *queue_entry(q, i) = order[i].entry;
    free(order);
}

/* A session that the ledger shows online lost its connection when the broker
 * died: at the latest a heartbeat after it was last known to live. */
static void replay_offline(struct session_server *s, struct session *session)
{
    uint64_t died = store_last_alive(s->store) + 1000;
    if (session->offline != 0)
        return;
    session->offline = died < s->now ? died : s->now;
    if (session->will.body.p != NULL)
        session->will.due =
            session->offline + (uint64_t)session->will.delay * 1000;
    session_write(s, session, WRITE_NEW, STORE_NOW);
}

/* -1: the ledger cannot give the will back. */
static int replay_will(struct session_server *s, struct session *session)
{
    struct mqtt_packet view;
    struct mqtt_bytes body;
    if (session->object.body_len == 0)
        return 0;
    if (body_open(s, &session->object, &view, &body) != 0)
        return -1;
    session->will.body = text_copy(body);
    return 0;
}

/* All records are read: links what they described.  Messages come in the
 * order of their slots, which is that of the log. */
static int replay_finish(struct session_server *s, struct replay *r)
{
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        struct session *session = session_at(s, i);
        if (session != NULL && session->client.n == 0)
            replay_session_end(s, r, session);
    }
    for (uint32_t i = 1; i < s->messages.n; i++) {
        if (message_at(s, i) != NULL)
            replay_place(s, message_at(s, i));
    }
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        struct session *session = session_at(s, i);
        if (session == NULL)
            continue;
        if (replay_will(s, session) != 0)
            return -1;
        replay_sort(s, session);
        if (session->flight_n > 0)
            session->packet_id =
                session->flights[session->flight_n - 1].packet_id;
    }
    return 0;
}

/* Applies up to n records.  1 = there are more, 0 = all are read, -1 = the
 * store is rotten: store_error(). */
static int replay_some(struct session_server *s, struct replay *r, uint32_t n)
{
    for (; n > 0; n--) {
        int more = store_replay_next(s->store, &r->rec);
        if (more <= 0)
            return more;
        if (r->rec.lost)
            replay_lost(s, r);
        else if (replay_record(s, r) != 0 &&
                 store_replay_refuse(s->store, &r->rec,
                                     "a record that this version cannot "
                                     "read") < 0)
            return -1;
        fields_clear(s, &r->f);
    }
    return 1;
}

static void replay_free(struct session_server *s, struct replay *r)
{
    fields_free(s, &r->f);
    map_free(&r->sessions);
    map_free(&r->messages);
    map_free(&r->deliveries);
    buf_free(&r->lost);
}

/* Reads the whole ledger.  0, or -1: store_error(). */
static int server_replay(struct session_server *s)
{
    struct replay r;
    int more = 1;
    memset(&r, 0, sizeof r);
    s->replaying = 1;
    while (more > 0)
        more = replay_some(s, &r, UINT32_MAX);
    fields_clear(s, &r.f);
    if (more == 0)
        more = replay_finish(s, &r);
    replay_free(s, &r);
    s->replaying = 0;
    slots_release(&s->sessions);
    return more;
}

/* Time goes on for the sessions that were read back. */
static void server_resume(struct session_server *s)
{
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        if (session_at(s, i) != NULL) {
            replay_offline(s, session_at(s, i));
            session_arm(s, session_at(s, i));
        }
    }
}

/* ======================================================================== */
/* 26  public functions                                                     */
/* ======================================================================== */

void session_options_default(struct session_options *opt)
{
    memset(opt, 0, sizeof *opt);
    opt->expiry_default = 7 * 24 * 3600;
    opt->expiry_max = EXPIRY_NEVER;
    opt->packet_max = 16 * 1024 * 1024;
    opt->receive_max = 1024;
    opt->window_max = 1024;
    opt->alias_max = 64;
    opt->alias_out_max = 64;
    opt->connect_wait = 10000;
    opt->queue_max = 1000000;
    opt->topics_max = 4000000;
    opt->output_high = 256 * 1024;
    opt->memory_max = 256 * 1024 * 1024;
    opt->sys_every = 10;
}

/* A server that knows nothing yet. */
static struct session_server *server_new(struct store *st,
                                         const struct session_options *opt,
                                         uint64_t now)
{
    struct mqtt_bytes none = {NULL, 0};
    struct session_server *s = mem_new(sizeof *s);
    s->store = st;
    s->opt = *opt;
    s->now = now;
    s->next_session = s->next_message = 1;
    s->next_brief = (uint64_t)UINT32_MAX + 1; /* never in the ledger */
    s->counters.kind = OBJECT_COUNTERS;
    s->sys.opened = now;
    s->sys.step = now + SYS_STEP;
    s->root = topic_new(s, NULL, none);
    return s;
}

struct session_server *session_server_open(struct store *st,
                                           const struct session_options *opt,
                                           uint64_t now)
{
    struct session_server *s = server_new(st, opt, now);
    if (server_replay(s) != 0) {
        session_server_close(s);
        return NULL;
    }
    server_resume(s);
    if (s->counters.segment == 0)
        counters_write(s, WRITE_NEW);
    timers_run(s, &s->timers);
    return s;
}

static void topics_free(struct topic *root)
{
    struct topic *t = root;
    while (t != NULL) {
        if (t->child != NULL) {
            t = t->child;
            continue;
        }
        struct topic *parent = t->parent;
        if (parent != NULL)
            parent->child = t->next;
        while (t->shares != NULL) {
            struct share *g = t->shares;
            t->shares = g->next;
            free(g);
        }
        free(t);
        t = parent;
    }
}

static void link_free(struct session_link *link)
{
    struct session_server *s = link->server;
    for (uint32_t i = 0; link->alias_in != NULL && i <= s->opt.alias_max; i++)
        text_free(&link->alias_in[i]);
    for (uint32_t i = 0; link->alias_out != NULL && i <= link->alias_out_n;
         i++)
        text_free(&link->alias_out[i]);
    free(link->alias_in);
    free(link->alias_out);
    free(link->resend);
    s->out_bytes -= link->out.n;
    link_unhold(link);
    buf_free(&link->in);
    buf_free(&link->out);
    if (link->prev != NULL)
        link->prev->next = link->next;
    else
        s->links = link->next;
    if (link->next != NULL)
        link->next->prev = link->prev;
    free(link);
}

void session_server_close(struct session_server *s)
{
    /* messages first: they take their timers out of the heap, which points
     * into links and sessions */
    for (uint32_t i = 1; i < s->messages.n; i++) {
        if (message_at(s, i) != NULL)
            message_free(s, message_at(s, i));
    }
    marks_free(s); /* before the links, which the records point at */
    while (s->links != NULL)
        link_free(s->links);
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        struct session *session = session_at(s, i);
        while (session != NULL && session->subs != NULL) {
            struct sub *sub = session->subs;
            session->subs = sub->mate;
            free(sub);
        }
        if (session != NULL)
            session_free(session);
    }
    for (uint32_t i = 1; i < s->vias.n; i++)
        free(s->vias.at[i]);
    topics_free(s->root);
    slots_free(&s->sessions);
    slots_free(&s->messages);
    slots_free(&s->vias);
    free(s->clients.bucket);
    free(s->topics.bucket);
    free(s->filters.bucket);
    free(s->shares.bucket);
    free(s->via_sets.bucket);
    free(s->timers.at);
    free(s->watches.at);
    free(s->dirty);
    free(s->found.at);
    free(s->level.at);
    free(s->level_next.at);
    free(s->sys.asked.at);
    free(s->matches);
    free(s->match_ids);
    buf_free(&s->log);
    buf_free(&s->trace);
    buf_free(&s->body);
    free(s);
}

void session_server_stop(struct session_server *s, uint64_t now)
{
    server_clock(s, now);
    for (struct session_link *link = s->links; link; link = link->next) {
        if (link->state == LINK_OPEN)
            link_disconnect(link, MQTT_SERVER_SHUTTING_DOWN, "",
                            "the server is shutting down", DETACH_LOST);
        else if (link->state == LINK_NEW)
            link_close_silently(link, "", NO_BYTE,
                                "the server is shutting down");
    }
    log_unsaid(s);
}

void session_server_settle(struct session_server *s, uint64_t now)
{
    struct store_object *o;
    server_clock(s, now);
    server_listen(s);
    timers_run(s, &s->watches);
    server_serve(s);
    sys_turn(s);
    while ((o = store_clean_next(s->store)) != NULL && object_fold(s, o) == 0)
        continue;
    buf_rest(&s->log);
    trace_settle(s);
}

uint64_t session_server_due(const struct session_server *s)
{
    uint64_t timer = heap_due(&s->timers), watch = heap_due(&s->watches);
    uint64_t due = timer < watch ? timer : watch;
    if (s->dirty_n > 0 || s->held != NULL)
        return 0;
    if (s->unsaid > 0 && s->log_second + 1000 < due)
        due = s->log_second + 1000;
    return s->sys.due != 0 && s->sys.due < due ? s->sys.due : due;
}

static void checkpoint_message(struct session_server *s, struct message *m)
{
    struct mqtt_bytes none = {NULL, 0};
    struct text topic = {NULL, 0};
    if (m->object.segment == 0)
        return;
    if (m->retained_at != NULL)
        topic = topic_name(m->retained_at);
    message_write(s, m, WRITE_INDEX, STORE_LATER, bytes_of(&topic), none);
    text_free(&topic);
}

int session_server_checkpoint(struct session_server *s)
{
    store_index_begin(s->store);
    counters_write(s, WRITE_INDEX);
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        struct session *session = session_at(s, i);
        if (session == NULL || !session->durable)
            continue;
        session_write(s, session, WRITE_INDEX, STORE_LATER);
        for (struct sub *sub = session->subs; sub != NULL; sub = sub->mate)
            sub_write(s, sub, WRITE_INDEX, STORE_LATER);
    }
    for (uint32_t i = 1; i < s->messages.n; i++) {
        if (message_at(s, i) != NULL)
            checkpoint_message(s, message_at(s, i));
    }
    return store_index_end(s->store);
}

struct session_link *session_link_open(struct session_server *s,
                                       const char *peer, uint64_t now)
{
    struct session_link *link = mem_new(sizeof *link);
    server_clock(s, now);
    link->server = s;
    s->figures.links++;
    link->packet_max = MQTT_REMAINING_LENGTH_MAX + 5;
    link->problem_information = 1;
    snprintf(link->peer, sizeof link->peer, "%s", peer);
    link->next = s->links;
    if (link->next != NULL)
        link->next->prev = link;
    s->links = link;
    link->heard = s->now;
    link->timer.kind = TIMER_LINK;
    timer_set(s, &link->timer, s->now + s->opt.connect_wait);
    return link;
}

void session_link_input(struct session_link *link, const void *bytes, size_t n,
                        uint64_t now)
{
    server_clock(link->server, now);
    if (link->state == LINK_DONE)
        return;
    if (link->in.n == 0)
        link->begun = link->server->now;
    buf_add(&link->in, bytes, n);
    link->server->figures.bytes_received += n;
    if (link->server->held == NULL)
        link_run(link);
    else
        link_hold(link); /* others came first */
}

int session_link_ready(const struct session_link *link)
{
    /* above the mark of deliveries, so that acknowledgements get through */
    return !link->held &&
           link->out.n < 2 * (size_t)link->server->opt.output_high;
}

const uint8_t *session_link_output(const struct session_link *link, size_t *n)
{
    *n = link->out.n;
    return link->out.p;
}

void session_link_sent(struct session_link *link, size_t n)
{
    struct session_server *s = link->server;
    if (!session_link_ready(link))
        link->heard = s->now; /* it reads; we do not listen to it just now */
    buf_take(&link->out, n);
    s->out_bytes -= n;
    s->figures.bytes_sent += n;
    if (n > 0)
        link->burst = link->fresh_n = 0;
    buf_rest(&link->out);
    if (link->session != NULL && link_roomy(link, s->opt.output_high) &&
        (link->session->queue.n > 0 || link->resend_at < link->resend_n))
        session_wake(s, link->session);
}

int session_link_done(const struct session_link *link)
{
    return link->state == LINK_DONE;
}

void session_link_lost(struct session_link *link, uint64_t now)
{
    struct session_server *s = link->server;
    server_clock(s, now);
    while (link->held && link_take(link)) /* what came before the end counts */
        continue;
    if (link->state != LINK_DONE) {
        log_begin(s, link->session, link);
        log_add(s, "the connection was lost %s",
                link->state == LINK_NEW ? "before CONNECT"
                                        : "without DISCONNECT");
        if (link->in.n > 0)
            log_add(s, ", within a packet");
        log_fate(s, link->session, DETACH_LOST);
        log_end(s, "");
        link_finish(link, DETACH_LOST);
    }
    link_free(link);
}

struct buf *session_log(struct session_server *s)
{
    return &s->log;
}

struct buf *session_trace(struct session_server *s)
{
    return &s->trace;
}

const struct session_figures *session_figures(const struct session_server *s)
{
    return &s->figures;
}

/* ======================================================================== */
/* 27  audit: what the ledger holds, in words                               */
/* ======================================================================== */

#define AUDIT_RECORDS 1000 /* read in one step */

/* Tells the sum, then the sessions, then the retained messages. */
struct session_audit {
    struct session_server *server; /* filled by the replay; serves nobody */
    struct replay r;
    int told;    /* 1 = the sum was told */
    uint32_t at; /* slots of sessions, then of messages, that were told */
};

/* Deliveries of one kind, summed up. */
struct pile {
    uint64_t n, bytes;
    uint64_t oldest, newest; /* when they were accepted, ms */
    uint64_t expired;        /* by now: the next start drops them */
    uint64_t qos0;
    uint64_t released;       /* await PUBCOMP */
};

/* A time that has passed or is to come, in the two greatest units. */
static void tell_span(struct buf *out, uint64_t ms)
{
    uint64_t s = ms / 1000;
    if (s >= 86400)
        buf_print(out, "%llu d %llu h", (unsigned long long)(s / 86400),
                  (unsigned long long)(s / 3600 % 24));
    else if (s >= 3600)
        buf_print(out, "%llu h %llu min", (unsigned long long)(s / 3600),
                  (unsigned long long)(s / 60 % 60));
    else if (s >= 60)
        buf_print(out, "%llu min %llu s", (unsigned long long)(s / 60),
                  (unsigned long long)(s % 60));
    else
        buf_print(out, "%llu s", (unsigned long long)s);
}

static uint64_t span(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

static void pile_add(const struct session_server *s, struct pile *pile,
                     struct entry e)
{
    const struct message *m = message_at(s, e.message);
    const struct receiver *r = entry_receiver(s, e);
    if (pile->n == 0 || m->at < pile->oldest)
        pile->oldest = m->at;
    if (m->at > pile->newest)
        pile->newest = m->at;
    pile->n++;
    pile->bytes += m->object.body_len;
    pile->expired += m->expiry.at != 0 && m->expiry.at <= s->now;
    pile->qos0 += r->qos == 0;
    pile->released += r->stage == STAGE_RELEASED;
}

static void tell_pile(const struct session_server *s, struct buf *out,
                      const char *what, const struct pile *pile)
{
    if (pile->n == 0)
        return;
    buf_print(out, "  %s: %llu messages, %llu bytes, the oldest ", what,
              (unsigned long long)pile->n, (unsigned long long)pile->bytes);
    tell_span(out, span(pile->oldest, s->now));
    buf_text(out, " old, the newest ");
    tell_span(out, span(pile->newest, s->now));
    if (pile->qos0 > 0)
        buf_print(out, "; %llu at QoS 0", (unsigned long long)pile->qos0);
    if (pile->released > 0)
        buf_print(out, "; %llu wait for PUBCOMP",
                  (unsigned long long)pile->released);
    if (pile->expired > 0)
        buf_print(out, "; %llu have expired",
                  (unsigned long long)pile->expired);
    buf_text(out, "\n");
}

static void tell_deliveries(const struct session_server *s, struct buf *out,
                            const struct session *session)
{
    struct pile queued, flying;
    memset(&queued, 0, sizeof queued);
    memset(&flying, 0, sizeof flying);
    for (uint32_t i = 0; i < session->queue.n; i++)
        pile_add(s, &queued, *queue_entry(&session->queue, i));
    for (uint32_t i = 0; i < session->flight_n; i++)
        pile_add(s, &flying, session->flights[i].entry);
    tell_pile(s, out, "queue", &queued);
    tell_pile(s, out, "sent, not acknowledged", &flying);
    if (session->flight_n > 0)
        buf_text(out, "    Packet Identifiers");
    for (uint32_t i = 0; i < session->flight_n; i++)
        buf_print(out, " %u", (unsigned)session->flights[i].packet_id);
    buf_text(out, session->flight_n > 0 ? "\n" : "");
    if (session->rx_n > 0)
        buf_text(out, "  received at QoS 2, not released:");
    for (uint32_t i = 0; i < session->rx_n; i++)
        buf_print(out, " %u", (unsigned)session->rx[i].packet_id);
    buf_text(out, session->rx_n > 0 ? "\n" : "");
}

static void tell_sub(struct buf *out, const struct sub *sub)
{
    struct mqtt_bytes filter = {sub->filter, sub->n};
    buf_text(out, "  subscription ");
    name_add(out, filter);
    buf_print(out, " QoS %u", (unsigned)sub->qos);
    if (sub->id != 0)
        buf_print(out, ", identifier %lu", (unsigned long)sub->id);
    buf_text(out, sub->no_local ? ", No Local" : "");
    buf_text(out, sub->retain_as_published ? ", Retain As Published" : "");
    if (sub->retain_handling != 0)
        buf_print(out, ", Retain Handling %u", (unsigned)sub->retain_handling);
    buf_text(out, "\n");
}

static void tell_will(const struct session_server *s, struct buf *out,
                      const struct will *w)
{
    struct mqtt_packet view;
    if (w->body.p == NULL ||
        mqtt_publish_open(&view, w->body.p, w->body.n) != 0)
        return;
    buf_text(out, "  will on ");
    name_add(out, view.publish.topic);
    buf_print(out, " QoS %u%s, %lu bytes", (unsigned)w->qos,
              w->retain ? ", retained" : "",
              (unsigned long)view.publish.payload.n);
    if (w->due == 0) {
        buf_print(out, ", delay %lu s\n", (unsigned long)w->delay);
        return;
    }
    buf_text(out, w->due > s->now ? ", due in " : ", was due ago ");
    tell_span(out, w->due > s->now ? w->due - s->now : s->now - w->due);
    buf_text(out, "\n");
}

/* Online or offline, since when and until when. */
static void tell_presence(const struct session_server *s, struct buf *out,
                          const struct session *session)
{
    uint64_t offline = session->offline, end;
    uint64_t alive = store_last_alive(s->store);
    if (offline == 0 && alive + 5000 > s->now) {
        buf_text(out, ": online");
    } else {
        buf_text(out, offline == 0 ? ": online when the broker ended, "
                                   : ": offline since ");
        offline = offline == 0 ? alive : offline;
        store_time_print(out, offline);
        buf_text(out, ", for ");
        tell_span(out, span(offline, s->now));
    }
    if (session->expiry == EXPIRY_NEVER) {
        buf_text(out, "; never expires\n");
        return;
    }
    buf_print(out, "; expiry %lu s", (unsigned long)session->expiry);
    end = offline + (uint64_t)session->expiry * 1000;
    if (offline != 0 && end <= s->now)
        buf_text(out, ", has passed: the next start ends it");
    else if (offline != 0)
        buf_text(out, ", left ");
    if (offline != 0 && end > s->now)
        tell_span(out, end - s->now);
    buf_text(out, "\n");
}

static void tell_session(const struct session_server *s, struct buf *out,
                         const struct session *session)
{
    buf_print(out, "session %llu, client ", (unsigned long long)session->id);
    name_add(out, bytes_of(&session->client));
    tell_presence(s, out, session);
    tell_will(s, out, &session->will);
    for (const struct sub *sub = session->subs; sub != NULL; sub = sub->mate)
        tell_sub(out, sub);
    tell_deliveries(s, out, session);
}

static void tell_retained(const struct session_server *s, struct buf *out,
                          const struct message *m)
{
    struct text topic = topic_name(m->retained_at);
    buf_text(out, "retained on ");
    name_add(out, bytes_of(&topic));
    text_free(&topic);
    buf_print(out, ": QoS %u, %lu bytes, ", (unsigned)m->qos,
              (unsigned long)m->object.body_len);
    tell_span(out, span(m->at, s->now));
    buf_text(out, " old");
    if (m->expiry.at != 0 && m->expiry.at <= s->now)
        buf_text(out, ", has expired");
    else if (m->expiry.at != 0)
        buf_text(out, ", expires in ");
    if (m->expiry.at > s->now)
        tell_span(out, m->expiry.at - s->now);
    buf_text(out, "\n");
}

static void tell_sum(const struct session_server *s, struct buf *out)
{
    const struct session_figures *f = &s->figures;
    uint64_t online = 0, bytes = 0;
    for (uint32_t i = 1; i < s->sessions.n; i++)
        online += session_at(s, i) != NULL && session_at(s, i)->offline == 0;
    for (uint32_t i = 1; i < s->messages.n; i++) {
        if (message_at(s, i) != NULL)
            bytes += message_at(s, i)->object.body_len;
    }
    buf_print(
        out,
        "%llu sessions (%llu online), %llu subscriptions, %llu messages of "
        "%llu bytes, %llu deliveries, %llu retained\n",
        (unsigned long long)f->sessions, (unsigned long long)online,
        (unsigned long long)f->subscriptions, (unsigned long long)f->messages,
        (unsigned long long)bytes, (unsigned long long)f->deliveries,
        (unsigned long long)f->retained);
}

struct session_audit *session_audit_open(struct store *st,
                                         const struct session_options *opt,
                                         uint64_t now)
{
    struct session_audit *a = mem_new(sizeof *a);
    uint64_t alive = store_last_alive(st);
    a->server = server_new(st, opt, alive > now ? alive : now);
    a->server->replaying = 1;
    return a;
}

/* The ledger is damaged: sessions that are named but have no record are told.
 * A sound one may have such too, of sessions that have ended. */
static void audit_nameless(struct session_audit *a)
{
    const struct session_server *s = a->server;
    uint64_t *waiting = mem_new((s->sessions.n + 1u) * sizeof *waiting);
    for (uint32_t i = 1; i < s->messages.n; i++) {
        const struct message *m = message_at(s, i);
        for (uint32_t k = 0; m != NULL && k < m->to_n; k++)
            waiting[m->to[k].session]++;
    }
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        const struct session *session = session_at(s, i);
        if (session == NULL || session->client.n > 0)
            continue;
        buf_print(
            &a->r.lost,
            "session %llu has ended or its state is lost: no record of it, "
            "%s, %llu deliveries\n",
            (unsigned long long)session->id,
            session->subs != NULL ? "subscriptions" : "no subscription",
            (unsigned long long)waiting[i]);
    }
    free(waiting);
}

int session_audit_read(struct session_audit *a)
{
    struct session_server *s = a->server;
    int more = replay_some(s, &a->r, AUDIT_RECORDS);
    if (more != 0)
        return more;
    if (store_faults(s->store)->n > 0)
        audit_nameless(a);
    more = replay_finish(s, &a->r);
    s->replaying = 0;
    slots_release(&s->sessions);
    return more;
}

const struct buf *session_audit_lost(const struct session_audit *a)
{
    return &a->r.lost;
}

int session_audit_report(struct session_audit *a, struct buf *out)
{
    const struct session_server *s = a->server;
    uint32_t sessions = s->sessions.n, at;
    if (!a->told) {
        tell_sum(s, out);
        a->told = 1;
        return 1;
    }
    at = ++a->at;
    if (at < sessions) {
        if (session_at(s, at) != NULL)
            tell_session(s, out, session_at(s, at));
        return 1;
    }
    at -= sessions > 0 ? sessions - 1 : 0;
    if (at >= s->messages.n)
        return 0;
    if (message_at(s, at) != NULL && message_at(s, at)->retained_at != NULL)
        tell_retained(s, out, message_at(s, at));
    return 1;
}

void session_audit_close(struct session_audit *a)
{
    replay_free(a->server, &a->r);
    session_server_close(a->server);
    free(a);
}

/* ======================================================================== */
/* 28  inspect: what the server holds, for those who look                   */
/* ======================================================================== */

static int bytes_order(struct mqtt_bytes a, struct mqtt_bytes b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n > 0 ? memcmp(a.p, b.p, n) : 0;
    return order != 0 ? order : (a.n > b.n) - (a.n < b.n);
}

/* ASCII only: names are UTF-8, whose other bytes all have the high bit. */
static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c - 'A' + 'a') : c;
}

/* A part of names that is searched for in all of them. */
struct search {
    size_t n;                         /* bytes; over the maximum: none fits */
    uint8_t part[INSPECT_SEARCH_MAX]; /* in lower case */
    /* how many of its first bytes stand behind i + 1 of them, too, from which
     * to go on where the next did not fit */
    uint8_t back[INSPECT_SEARCH_MAX];
};

/* How many bytes of the part have been read, when c comes behind k of them. */
static size_t search_step(const struct search *f, size_t k, uint8_t c)
{
    c = lower(c);
    while (k > 0 && c != f->part[k])
        k = f->back[k - 1];
    return k + (c == f->part[k]);
}

static void search_begin(struct search *f, struct mqtt_bytes part)
{
    size_t k = 0;
    memset(f, 0, sizeof *f);
    f->n = part.n;
    for (size_t i = 0; i < part.n && i < INSPECT_SEARCH_MAX; i++) {
        f->part[i] = lower(part.p[i]);
        k = i > 0 ? search_step(f, k, part.p[i]) : 0;
        f->back[i] = (uint8_t)k;
    }
}

/* Does the name hold it?  No byte of the name is read twice (Knuth, Morris,
 * Pratt): strangers choose long ones, of one letter. */
static int search_finds(const struct search *f, struct mqtt_bytes name)
{
    size_t k = 0;
    if (f->n > INSPECT_SEARCH_MAX)
        return 0;
    for (size_t i = 0; i < name.n && k < f->n; i++)
        k = search_step(f, k, name.p[i]);
    return k == f->n;
}

static int inspect_fits(const struct inspect_query *q, const struct search *f,
                        const struct session *session)
{
    int online = session->link != NULL;
    if (q->which == INSPECT_ONLINE && !online)
        return 0;
    if (q->which == INSPECT_OFFLINE && online)
        return 0;
    if (q->which == INSPECT_WAITING && session->queue.n == 0 &&
        session->flight_n == 0)
        return 0;
    return search_finds(f, bytes_of(&session->client));
}

/* The sessions kept while all are looked at: a heap whose top is the first
 * to give way.  `way` 1: the least ones are kept, -1: the greatest. */
struct pick {
    const struct session **at;
    size_t n, limit;
    int way;
};

static int session_order(const struct session *a, const struct session *b)
{
    return bytes_order(bytes_of(&a->client), bytes_of(&b->client));
}

static int session_compare(const void *a, const void *b)
{
    const struct session *const *x = a, *const *y = b;
    return session_order(*x, *y);
}

/* Does a give way before b? */
static int pick_above(const struct pick *pick, const struct session *a,
                      const struct session *b)
{
    return session_order(a, b) * pick->way > 0;
}

static void pick_up(struct pick *pick, const struct session *session)
{
    size_t i = pick->n++;
    while (i > 0 && pick_above(pick, session, pick->at[(i - 1) / 2])) {
        pick->at[i] = pick->at[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    pick->at[i] = session;
}

/* In place of the top. */
static void pick_down(struct pick *pick, const struct session *session)
{
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < pick->n &&
            pick_above(pick, pick->at[child + 1], pick->at[child]))
            child++;
        if (child >= pick->n || !pick_above(pick, pick->at[child], session))
            break;
        pick->at[i] = pick->at[child];
        i = child;
    }
    pick->at[i] = session;
}

static void pick_add(struct pick *pick, const struct session *session)
{
    if (pick->n < pick->limit)
        pick_up(pick, session);
    else if (pick->n > 0 && pick_above(pick, pick->at[0], session))
        pick_down(pick, session);
}

/* Of the queue only the first message is looked at: those behind it came
 * later, but for retained ones of a later SUBSCRIBE. */
static uint64_t inspect_oldest(const struct session_server *s,
                               const struct session *session)
{
    uint64_t oldest = NEVER;
    if (session->queue.n > 0)
        oldest = message_at(s, queue_entry(&session->queue, 0)->message)->at;
    for (uint32_t i = 0; i < session->flight_n; i++) {
        uint64_t at = message_at(s, session->flights[i].entry.message)->at;
        oldest = at < oldest ? at : oldest;
    }
    return oldest != NEVER ? oldest : 0;
}

static void inspect_fill(const struct session_server *s,
                         const struct session *session,
                         struct inspect_session *out)
{
    const struct session_link *link = session->link;
    memset(out, 0, sizeof *out);
    out->client = bytes_of(&session->client);
    out->number = session->durable ? session->id : 0;
    out->peer = link != NULL ? link->peer : NULL;
    out->since = link != NULL ? link->since : session->offline;
    out->expiry = session->expiry;
    if (link == NULL && session->expiry != EXPIRY_NEVER)
        out->ends = session->expire.at;
    out->subscriptions = session->sub_n;
    memcpy(out->queued, session->queued, sizeof out->queued);
    out->in_flight = session->flight_n;
    out->receiving = session->rx_n;
    out->oldest = inspect_oldest(s, session);
    out->will = session->will.body.p != NULL;
    out->will_due = session->will.due;
}

size_t inspect_sessions(const struct session_server *s,
                        const struct inspect_query *q,
                        struct inspect_session *rows, uint64_t *matched,
                        uint64_t *first)
{
    struct pick pick = {NULL, 0, q->limit, q->before.n > 0 ? -1 : 1};
    uint64_t passed = 0, within = 0; /* up to `after`; from there to `before` */
    struct search part;
    search_begin(&part, q->search);
    *matched = 0;
    pick.at = mem_new((q->limit + 1) * sizeof *pick.at);
    /* clients often came in the order of their names: then, from the right
     * end on, few of them have to go through the heap */
    for (uint32_t i = 1; i < s->sessions.n; i++) {
        const struct session *session =
            session_at(s, pick.way > 0 ? i : s->sessions.n - i);
        if (session == NULL || !inspect_fits(q, &part, session))
            continue;
        struct mqtt_bytes client = bytes_of(&session->client);
        (*matched)++;
        if (q->after.n > 0 && bytes_order(client, q->after) <= 0) {
            passed++;
        } else if (q->before.n == 0 || bytes_order(client, q->before) < 0) {
            within++;
            pick_add(&pick, session);
        }
    }
    if (pick.n > 1)
        qsort(pick.at, pick.n, sizeof *pick.at, session_compare);
    for (size_t i = 0; i < pick.n; i++)
        inspect_fill(s, pick.at[i], &rows[i]);
    free(pick.at);
    *first = passed + (q->before.n > 0 ? within - pick.n : 0);
    return pick.n;
}

int inspect_session(const struct session_server *s, struct mqtt_bytes client,
                    struct inspect_session *out)
{
    const struct session *session = session_find(s, client);
    if (session == NULL)
        return 0;
    inspect_fill(s, session, out);
    return 1;
}

size_t inspect_subs(const struct session_server *s, struct mqtt_bytes client,
                    size_t skip, struct inspect_sub *rows, size_t limit)
{
    const struct session *session = session_find(s, client);
    const struct sub *sub = session != NULL ? session->subs : NULL;
    size_t n = 0;
    for (; sub != NULL && n < limit; sub = sub->mate) {
        if (skip > 0) {
            skip--;
            continue;
        }
        struct inspect_sub *row = &rows[n++];
        memset(row, 0, sizeof *row);
        row->filter.p = sub->filter;
        row->filter.n = sub->n;
        row->id = sub->id;
        row->qos = sub->qos;
        row->no_local = sub->no_local;
        row->retain_as_published = sub->retain_as_published;
        row->retain_handling = sub->retain_handling;
    }
    return n;
}

static void inspect_message_fill(const struct message *m,
                                 struct inspect_message *out)
{
    memset(out, 0, sizeof *out);
    out->seq = m->seq;
    out->at = m->at;
    out->expires = m->expiry.at;
    out->bytes = (uint32_t)message_bytes(m);
    out->qos = m->qos;
    out->slot = m->slot;
}

static void inspect_delivery_fill(const struct session_server *s,
                                  struct entry e, struct inspect_delivery *out)
{
    const struct receiver *r = entry_receiver(s, e);
    memset(out, 0, sizeof *out);
    inspect_message_fill(message_at(s, e.message), &out->message);
    out->stage = r->stage == STAGE_QUEUED ? INSPECT_QUEUED
                 : r->stage == STAGE_SENT ? INSPECT_SENT
                                          : INSPECT_RELEASED;
    out->packet_id = r->packet_id;
    out->qos = r->qos;
    out->retain = r->retain;
}

size_t inspect_deliveries(const struct session_server *s,
                          struct mqtt_bytes client, size_t skip,
                          struct inspect_delivery *rows, size_t limit)
{
    const struct session *session = session_find(s, client);
    size_t n = 0;
    if (session == NULL)
        return 0;
    for (size_t i = skip; i < session->flight_n && n < limit; i++)
        inspect_delivery_fill(s, session->flights[i].entry, &rows[n++]);
    skip -= skip < session->flight_n ? skip : session->flight_n;
    for (uint32_t i = 0; i < session->queue.n && n < limit; i++) {
        struct entry e = *queue_entry(&session->queue, i);
        if (entry_receiver(s, e)->stage == STAGE_GONE)
            continue;
        if (skip > 0)
            skip--;
        else
            inspect_delivery_fill(s, e, &rows[n++]);
    }
    return n;
}

size_t inspect_receiving(const struct session_server *s,
                         struct mqtt_bytes client, size_t skip, uint16_t *rows,
                         size_t limit)
{
    const struct session *session = session_find(s, client);
    size_t n = 0;
    if (session == NULL)
        return 0;
    for (size_t i = skip; i < session->rx_n && n < limit; i++)
        rows[n++] = session->rx[i].packet_id;
    return n;
}

/* Rows for the retained messages at and below `top`, without the first *skip
 * of them, which are taken off *skip. */
static size_t inspect_below(const struct topic *top, size_t *skip,
                            struct inspect_message *rows, size_t limit)
{
    const struct topic *t = top;
    size_t n = 0;
    while (n < limit) {
        int whole = t->kept <= *skip; /* all of it is left out */
        if (whole)
            *skip -= t->kept;
        else if (t->retained != NULL && *skip > 0)
            (*skip)--;
        else if (t->retained != NULL)
            inspect_message_fill(t->retained, &rows[n++]);
        if (!whole && t->child != NULL) {
            t = t->child;
            continue;
        }
        while (t != top && t->next == NULL)
            t = t->parent;
        if (t == top)
            break;
        t = t->next;
    }
    return n;
}

size_t inspect_retained(struct session_server *s, struct mqtt_bytes filter,
                        size_t skip, struct inspect_message *rows,
                        size_t limit, uint64_t *matched)
{
    int below = topic_match_levels(s, filter);
    size_t n = 0;
    *matched = 0;
    for (size_t i = 0; i < s->level.n; i++) {
        const struct topic *t = s->level.at[i];
        if (below) {
            *matched += t->kept;
            n += inspect_below(t, &skip, rows + n, limit - n);
        } else if (t->retained != NULL) {
            (*matched)++;
            if (skip > 0)
                skip--;
            else if (n < limit)
                inspect_message_fill(t->retained, &rows[n++]);
        }
    }
    return n;
}

int inspect_message(const struct session_server *s,
                    const struct inspect_message *m, struct mqtt_bytes *topic,
                    struct mqtt_bytes *payload)
{
    const struct message *message = message_at(s, m->slot);
    struct mqtt_packet view;
    struct mqtt_bytes body;
    assert(message != NULL && message->seq == m->seq);
    body = bytes_of(&message->ram);
    if (message->object.segment != 0) {
        body.p = store_body_peek(s->store, &message->object);
        body.n = message->object.body_len;
    }
    if (body.p == NULL || mqtt_publish_open(&view, body.p, body.n) != 0)
        return -1;
    *topic = view.publish.topic;
    *payload = view.publish.payload;
    return 0;
}
