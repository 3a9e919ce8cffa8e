/*
 * story.c - a workload, and what everybody was told in it, and when.
 *
 * Sections
 *   1  lists and words
 *   2  what is expected  sessions, subscriptions, deliveries
 *   3  what is heard     by one client, packet by packet
 *   4  what is done      one drawn action after the other
 *   5  the whole
 */
#include "story.h"

#include <assert.h>
#include <stdio.h>

/* ==== 1. lists and words ================================================== */

/* Room for one more: the list grows at each power of two. */
static void *list_room(void *list, size_t count, size_t size)
{
    if ((count & (count - 1)) == 0)
        list = mem_grow(list, (count > 0 ? 2 * count : 1) * size);
    memset((char *)list + count * size, 0, size);
    return list;
}

static uint64_t story_draw(struct story *s, uint64_t sides)
{
    s->dice = s->dice * UINT64_C(6364136223846793005) +
              UINT64_C(1442695040888963407);
    return (s->dice >> 33) % sides;
}

static void story_fail(struct story *s, const char *what, int client, int n)
{
    if (s->error[0] == '\0')
        (void)snprintf(s->error, sizeof s->error,
                       "without any crash: %s (client %d, %d)", what, client,
                       n);
}

static size_t stamp_now(const struct story *s)
{
    return s->disk->op_count;
}

char *story_payload(const struct story *s, int message)
{
    size_t n = s->messages[message].size;
    char *p = (char *)mem_new(n + 16);
    int head = n > 0 ? snprintf(p, 16, "m%05d.", message) : 0;
    for (size_t i = (size_t)head; i < n; i++)
        p[i] = (char)('a' + (i * 7 + (size_t)message) % 26);
    return p;
}

int story_message(const struct story *s, struct mqtt_bytes payload)
{
    int number = 0;
    char *whole;
    if (payload.n < 7 || payload.p[0] != 'm')
        return -1;
    for (int i = 1; i <= 5; i++)
        number = number * 10 + (payload.p[i] - '0');
    if (number < 0 || (size_t)number >= s->message_count ||
        s->messages[number].size != payload.n)
        return -1;
    whole = story_payload(s, number);
    if (memcmp(whole, payload.p, payload.n) != 0)
        number = -1;
    free(whole);
    return number;
}

char *story_words(const struct story *s, int message, int dup)
{
    const struct message *m = &s->messages[message];
    char *payload = story_payload(s, message);
    char *words = (char *)mem_new(m->size + 100);
    char id[16] = "";
    if (m->qos > 0)
        (void)snprintf(id, sizeof id, " #%u", (unsigned)m->id);
    (void)snprintf(words, m->size + 100, "publish q%d%s%s%s %s =%s%s", m->qos,
                   dup ? " dup" : "", m->retain ? " retain" : "", id,
                   m->topic, payload, m->expires != 0 ? " mei=3" : "");
    free(payload);
    return words;
}

uint64_t story_time(const struct story *s, size_t stamp)
{
    size_t low = 0, high = s->moment_count;
    while (low + 1 < high) {
        size_t middle = (low + high) / 2;
        if (s->moments[middle].stamp <= stamp)
            low = middle;
        else
            high = middle;
    }
    return s->moments[low].now;
}

static void moment_add(struct story *s)
{
    struct moment m;
    m.stamp = stamp_now(s);
    m.now = s->world.now;
    s->moments = (struct moment *)list_room(s->moments, s->moment_count,
                                            sizeof *s->moments);
    s->moments[s->moment_count++] = m;
}

/* ==== 2. what is expected ================================================= */

static struct message *message_add(struct story *s, int from, int qos,
                                   size_t size)
{
    struct message *m;
    s->messages = (struct message *)list_room(s->messages, s->message_count,
                                              sizeof *s->messages);
    m = &s->messages[s->message_count++];
    m->from = from;
    m->epoch = s->players[from].epoch;
    m->qos = qos;
    m->size = size;
    m->asked = stamp_now(s);
    m->told = m->released = m->finished = m->cleared = NOT_YET;
    return m;
}

static struct delivery *delivery_add(struct story *s, int epoch, int message,
                                     int qos)
{
    struct delivery *d;
    s->deliveries = (struct delivery *)list_room(
        s->deliveries, s->delivery_count, sizeof *s->deliveries);
    d = &s->deliveries[s->delivery_count++];
    d->epoch = epoch;
    d->message = message;
    d->qos = qos;
    d->asked = stamp_now(s);
    d->asked_at = s->world.now;
    d->firm_killed = d->firm_cut = d->sent = d->got = d->released = NOT_YET;
    d->sending = d->done = d->past_killed = d->past_cut = NOT_YET;
    d->stored = s->players[s->epochs[epoch].client].link < 0;
    return d;
}

/* The subscription of a session to a topic, or NULL. */
static struct subscription *sub_find(struct story *s, int epoch, int topic)
{
    for (size_t i = s->sub_count; i-- > 0;)
        if (s->subs[i].epoch == epoch && s->subs[i].topic == topic)
            return s->subs[i].un_asked == NOT_YET ? &s->subs[i] : NULL;
    return NULL;
}

/* A message is on its way to all who subscribed. */
static void message_spread(struct story *s, int message, int topic)
{
    for (int c = 0; c < CLIENTS; c++) {
        int epoch = s->players[c].epoch, qos = s->messages[message].qos;
        const struct subscription *sub = NULL;
        if (epoch >= 0)
            sub = sub_find(s, epoch, topic);
        if (sub != NULL)
            (void)delivery_add(s, epoch, message,
                               sub->qos < qos ? sub->qos : qos);
    }
}

static int epoch_add(struct story *s, int client)
{
    struct epoch *e;
    s->epochs = (struct epoch *)list_room(s->epochs, s->epoch_count,
                                          sizeof *s->epochs);
    e = &s->epochs[s->epoch_count++];
    e->client = client;
    e->asked = stamp_now(s);
    e->told = e->end = NOT_YET;
    return (int)s->epoch_count - 1;
}

static void epoch_end(struct story *s, int client)
{
    struct player *p = &s->players[client];
    if (p->epoch >= 0)
        s->epochs[p->epoch].end = stamp_now(s);
    p->epoch = -1;
}

/* What is promised by the clock: deliveries become firm, or past.  Called
 * after a commit. */
static void deliveries_age(struct story *s)
{
    uint64_t now = s->world.now;
    size_t stamp = stamp_now(s), all = 1;
    for (size_t i = s->settled; i < s->delivery_count; i++) {
        struct delivery *d = &s->deliveries[i];
        int queued = d->qos == 0 && d->stored;
        uint64_t later = d->qos == 0 ? 0 : 100;
        if (queued && d->firm_killed == NOT_YET)
            d->firm_killed = stamp;
        if (queued && d->firm_cut == NOT_YET && now >= d->asked_at + 1000)
            d->firm_cut = stamp;
        if (d->done != NOT_YET && d->past_killed == NOT_YET &&
            now >= d->done_at + later)
            d->past_killed = stamp;
        if (d->done != NOT_YET && d->past_cut == NOT_YET &&
            now >= d->done_at + later + 1000)
            d->past_cut = stamp;
        if (d->past_cut == NOT_YET)
            all = 0;
        else if (all)
            s->settled = i + 1;
    }
}

static void story_turned(void *arg)
{
    struct story *s = (struct story *)arg;
    deliveries_age(s);
    moment_add(s);
}

/* ==== 3. what is heard ==================================================== */

static void answer_owe(struct player *p, uint8_t type, uint16_t id,
                       int delivery)
{
    struct answer a;
    memset(&a, 0, sizeof a);
    a.type = type;
    a.id = id;
    a.delivery = delivery;
    buf_add(&p->answers, &a, sizeof a);
}

/* The open delivery of this message that this PUBLISH can be, or NULL. */
static struct delivery *delivery_match(struct story *s, int epoch, int message,
                                       const struct mqtt_publish *p)
{
    for (size_t i = 0; i < s->delivery_count; i++) {
        struct delivery *d = &s->deliveries[i];
        if (d->epoch != epoch || d->message != message || d->qos != p->qos)
            continue;
        if (d->sent == NOT_YET ? !p->dup
                               : p->dup && p->qos > 0 &&
                                     d->id == p->packet_id &&
                                     d->released == NOT_YET)
            return d;
    }
    return NULL;
}

static void hear_publish(struct story *s, int client,
                         const struct mqtt_publish *p)
{
    struct player *player = &s->players[client];
    int message = story_message(s, p->payload);
    struct delivery *d = delivery_match(s, player->epoch, message, p);
    if (message < 0 || d == NULL) {
        story_fail(s, "a PUBLISH that nobody expects", client, message);
        return;
    }
    if (d->sent == NOT_YET) {
        d->sent = s->world.left;
        d->sending = s->world.began;
    }
    d->id = p->packet_id;
    if (d->qos == 0) {
        d->done = s->world.left;
        d->done_at = s->world.now;
    } else {
        answer_owe(player, d->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, d->id,
                   (int)(d - s->deliveries));
    }
}

/* The delivery that was sent last under this Packet Identifier, and got: an
 * earlier one is over, though it may stand behind it in the list, as a will
 * stands where its CONNECT was.  NULL = none. */
static struct delivery *delivery_got(struct story *s, int epoch, uint16_t id)
{
    struct delivery *last = NULL;
    for (size_t i = 0; i < s->delivery_count; i++) {
        struct delivery *d = &s->deliveries[i];
        if (d->epoch == epoch && d->id == id && d->got != NOT_YET &&
            d->qos == 2 && (last == NULL || d->sent > last->sent))
            last = d;
    }
    return last;
}

static void hear_pubrel(struct story *s, int client, uint16_t id)
{
    struct player *player = &s->players[client];
    struct delivery *d = delivery_got(s, player->epoch, id);
    if (d == NULL) {
        story_fail(s, "a PUBREL that nobody expects", client, id);
        return;
    }
    if (d->released == NOT_YET)
        d->released = s->world.left;
    answer_owe(player, MQTT_PUBCOMP, id, (int)(d - s->deliveries));
}

/* The open exchange of this client's Packet Identifier, or NULL. */
static struct message *message_open(struct story *s, int client, uint16_t id)
{
    for (size_t i = s->message_count; i-- > 0;) {
        struct message *m = &s->messages[i];
        if (m->from == client && m->id == id && !m->will && m->qos > 0 &&
            m->epoch == s->players[client].epoch && m->finished == NOT_YET)
            return m;
    }
    return NULL;
}

static void hear_ack(struct story *s, int client, const struct mqtt_packet *p)
{
    struct message *m = message_open(s, client, p->packet_id);
    size_t left = s->world.left;
    /* a PUBREL that is repeated may find the exchange finished */
    int again = m != NULL && m->released != NOT_YET;
    if (m == NULL || (p->reason >= 0x80 && !again)) {
        story_fail(s, "a wrong acknowledgement", client, p->reason);
        return;
    }
    if (p->type != MQTT_PUBCOMP && m->told == NOT_YET)
        m->told = left;
    if (p->type != MQTT_PUBREC)
        m->finished = left;
    else
        answer_owe(&s->players[client], MQTT_PUBREL, p->packet_id, -1);
}

static void message_release(struct story *s, int client, uint16_t id)
{
    struct message *m = message_open(s, client, id);
    if (m != NULL && m->released == NOT_YET)
        m->released = stamp_now(s);
    world_say(&s->world, s->players[client].link, "pubrel #%u", (unsigned)id);
}

/* Says again what has not been acknowledged [MQTT-4.4.0-1]. */
static void player_resume(struct story *s, int client)
{
    const struct player *p = &s->players[client];
    for (size_t i = 0; i < s->message_count; i++) {
        const struct message *m = &s->messages[i];
        char *words;
        if (m->from != client || m->epoch != p->epoch || m->will ||
            m->qos == 0 || m->finished != NOT_YET)
            continue;
        if (m->qos == 1 && !m->retain) /* it may well come twice */
            message_spread(s, (int)i, m->topic[2] - '0');
        if (m->told != NOT_YET) {
            message_release(s, client, m->id);
            continue;
        }
        words = story_words(s, (int)i, 1);
        world_say(&s->world, p->link, "%s", words);
        free(words);
    }
}

static void hear_connack(struct story *s, int client,
                         const struct mqtt_packet *p)
{
    struct player *player = &s->players[client];
    struct epoch *e = &s->epochs[player->epoch];
    int known = e->told != NOT_YET;
    player->connecting = 0;
    if (p->reason != 0 || p->session_present != known) {
        story_fail(s, "a wrong CONNACK", client, p->session_present);
        return;
    }
    if (!known) {
        e->told = s->world.left;
        e->told_at = s->world.now;
    }
    if (player->will >= 0)
        s->messages[player->will].told = s->world.left;
    player_resume(s, client);
}

static void hear_suback(struct story *s, int client,
                        const struct mqtt_packet *p)
{
    struct player *player = &s->players[client];
    struct subscription *sub;
    if (player->subscribing < 0 || (p->packet_id != 900 && p->packet_id != 901))
        return; /* of the retained messages alone: do_fetch() */
    sub = &s->subs[player->subscribing];
    if (p->type == MQTT_SUBACK)
        sub->told = s->world.left;
    else
        sub->un_told = s->world.left;
    player->subscribing = -1;
}

static void story_hear(void *arg, int link, const struct mqtt_packet *p)
{
    struct story *s = (struct story *)arg;
    int client = link % CLIENTS;
    if (s->players[client].link != link)
        return; /* the connection that was taken over */
    if (p->type == MQTT_CONNACK)
        hear_connack(s, client, p);
    else if (p->type == MQTT_PUBLISH)
        hear_publish(s, client, &p->publish);
    else if (p->type == MQTT_PUBREL)
        hear_pubrel(s, client, p->packet_id);
    else if (p->type == MQTT_SUBACK || p->type == MQTT_UNSUBACK)
        hear_suback(s, client, p);
    else if (p->type != MQTT_DISCONNECT)
        hear_ack(s, client, p);
}

/* ==== 4. what is done ===================================================== */

static void story_turn(struct story *s)
{
    if (s->error[0] == '\0' && world_turn(&s->world) < 0)
        story_fail(s, s->world.error, -1, 0);
}

/* The client is away, whoever broke off. */
static void player_leave(struct story *s, int client)
{
    struct player *p = &s->players[client];
    if (p->link >= 0 && p->epoch >= 0)
        s->epochs[p->epoch].away = s->world.now;
    p->link = -1;
    p->connecting = 0;
    p->subscribing = -1;
    p->will = -1;
    p->answers.n = 0;
}

/* A will for the connection that is being made, and its only receiver. */
static int will_add(struct story *s, int client, char *words, size_t cap)
{
    struct message *m = message_add(s, client, 2, 12 + story_draw(s, 40));
    int number = (int)s->message_count - 1;
    char *payload = story_payload(s, number);
    m->will = 1;
    m->at_once = story_draw(s, 4) > 0;
    (void)snprintf(m->topic, sizeof m->topic, "w");
    (void)snprintf(words, cap, " will q2 w =%s%s", payload,
                   m->at_once ? "" : " wdi=2");
    free(payload);
    (void)delivery_add(s, s->players[WATCHER].epoch, number, 2);
    return number;
}

static uint32_t client_expiry(int client)
{
    return client == BRIEF ? BRIEF_EXPIRY : 0xFFFFFFFEu;
}

static void do_connect(struct story *s, int client, int clean)
{
    struct player *p = &s->players[client];
    struct epoch *e = p->epoch >= 0 ? &s->epochs[p->epoch] : NULL;
    char will[120] = "";
    int link;
    if (p->link >= 0)
        player_leave(s, client); /* the server ends that connection */
    link = s->world.links[client].link == NULL ? client : client + CLIENTS;
    if (e != NULL && client == BRIEF && e->away != 0 &&
        s->world.now >= e->away + BRIEF_EXPIRY * 1000)
        epoch_end(s, client);
    if (clean)
        epoch_end(s, client);
    if (p->epoch < 0)
        p->epoch = epoch_add(s, client);
    s->epochs[p->epoch].away = 0;
    p->link = link;
    p->connecting = 1;
    if (client < 2 && s->players[WATCHER].epoch >= 0 && story_draw(s, 3) > 0)
        p->will = will_add(s, client, will, sizeof will);
    world_link_open(&s->world, link);
    world_say(&s->world, link, "connect %sid=c%d x=%u rm=%u%s",
              clean ? "c1 " : "c0 ", client, (unsigned)client_expiry(client),
              3 + (unsigned)story_draw(s, 20), will);
    story_turn(s);
}

static void do_cut(struct story *s, int client)
{
    struct player *p = &s->players[client];
    if (p->link >= 0)
        world_link_cut(&s->world, p->link);
    player_leave(s, client);
}

static void do_leave(struct story *s, int client)
{
    struct player *p = &s->players[client];
    int ends = client != WATCHER && story_draw(s, 4) == 0;
    if (p->link < 0)
        return;
    if (p->will >= 0)
        s->messages[p->will].cleared = stamp_now(s);
    if (ends)
        epoch_end(s, client);
    world_say(&s->world, p->link, ends ? "disconnect 00 x=0"
                                       : "disconnect 00");
    player_leave(s, client);
}

/* The lowest Packet Identifier that the client may use. */
static uint16_t player_id(struct story *s, int client)
{
    uint16_t id = 1;
    while (message_open(s, client, id) != NULL)
        id++;
    return id;
}

static size_t draw_size(struct story *s)
{
    if (story_draw(s, 12) == 0)
        return 400 + (size_t)story_draw(s, 400);
    return 8 + (size_t)story_draw(s, 60);
}

static void do_publish(struct story *s, int client)
{
    struct player *p = &s->players[client];
    int topic = (int)story_draw(s, TOPICS + 2), qos = (int)story_draw(s, 3);
    int retain = topic == TOPICS;
    char kind = retain ? 'r' : topic < TOPICS ? 't' : 'n';
    uint16_t id = player_id(s, client);
    struct message *m;
    char *words;
    if (p->link < 0)
        return;
    m = message_add(s, client, qos, draw_size(s));
    m->retain = retain;
    m->id = qos > 0 ? id : 0;
    if (retain && qos > 0 && story_draw(s, 5) < 2)
        m->size = 0;
    if (!retain && story_draw(s, 10) == 0)
        m->expires = s->world.now + 3000;
    /* t/: somebody may have subscribed; n/: nobody ever does */
    (void)snprintf(m->topic, sizeof m->topic, "%c/%d", kind,
                   retain ? (int)story_draw(s, 2) : topic % 10);
    if (!retain)
        message_spread(s, (int)s->message_count - 1, topic);
    words = story_words(s, (int)s->message_count - 1, 0);
    world_say(&s->world, p->link, "%s", words);
    free(words);
}

static void do_subscribe(struct story *s, int client, int topic, int qos)
{
    struct player *p = &s->players[client];
    struct subscription *sub, *old;
    if (p->link < 0 || p->subscribing >= 0)
        return;
    old = sub_find(s, p->epoch, topic);
    if (old != NULL) {
        old->un_asked = stamp_now(s);
        old->replaced = 1;
    }
    s->subs = (struct subscription *)list_room(s->subs, s->sub_count,
                                               sizeof *s->subs);
    sub = &s->subs[s->sub_count];
    sub->epoch = p->epoch;
    sub->topic = topic;
    sub->qos = qos;
    sub->asked = stamp_now(s);
    sub->told = sub->un_asked = sub->un_told = NOT_YET;
    p->subscribing = (int)s->sub_count++;
    if (topic == TOPICS)
        world_say(&s->world, p->link, "subscribe #900 w,q%d", qos);
    else
        world_say(&s->world, p->link, "subscribe #900 t/%d,q%d", topic, qos);
}

static void do_unsubscribe(struct story *s, int client)
{
    struct player *p = &s->players[client];
    int topic = (int)story_draw(s, TOPICS);
    struct subscription *sub = NULL;
    if (p->link < 0 || p->subscribing >= 0 || client == WATCHER)
        return;
    sub = sub_find(s, p->epoch, topic);
    if (sub == NULL)
        return;
    sub->un_asked = stamp_now(s);
    p->subscribing = (int)(sub - s->subs);
    world_say(&s->world, p->link, "unsubscribe #901 t/%d", topic);
}

/* What a topic holds, as far as it was asked; -1 = nothing. */
static int retained_asked(const struct story *s, const char *topic)
{
    for (size_t i = s->message_count; i-- > 0;)
        if (s->messages[i].retain && strcmp(s->messages[i].topic, topic) == 0)
            return s->messages[i].size > 0 ? (int)i : -1;
    return -1;
}

/* Subscribes, for the sake of the retained message, and gives it up. */
static void do_fetch(struct story *s, int client)
{
    struct player *p = &s->players[client];
    const char *topic = story_draw(s, 2) == 0 ? "r/0" : "r/1";
    int message = retained_asked(s, topic);
    if (p->link < 0 || p->subscribing >= 0)
        return;
    if (message >= 0) {
        int qos = s->messages[message].qos;
        struct delivery *d =
            delivery_add(s, p->epoch, message, qos < 1 ? qos : 1);
        d->copy = 1;
        d->stored = 0;
    }
    world_say(&s->world, p->link, "subscribe #902 %s,q1", topic);
    story_turn(s);
    world_say(&s->world, p->link, "unsubscribe #903 %s", topic);
}

/* A client gives some of the answers that it owes. */
static void do_answer(struct story *s, int client)
{
    struct player *p = &s->players[client];
    size_t n = p->answers.n / sizeof(struct answer);
    size_t give = n > 0 ? 1 + (size_t)story_draw(s, n) : 0;
    static const char *const words[] = {"puback", "pubrec", "", "pubcomp"};
    for (; give > 0 && p->link >= 0; give--) {
        struct delivery *d = NULL;
        struct answer a;
        memcpy(&a, p->answers.p, sizeof a);
        buf_take(&p->answers, sizeof a);
        if (a.delivery < 0) {
            message_release(s, client, a.id);
            continue;
        }
        d = &s->deliveries[a.delivery];
        if (d->got == NOT_YET)
            d->got = stamp_now(s);
        if (a.type != MQTT_PUBREC) {
            if (d->done == NOT_YET)
                d->done = stamp_now(s);
            d->done_at = s->world.now;
        }
        world_say(&s->world, p->link, "%s #%u", words[a.type - MQTT_PUBACK],
                  (unsigned)a.id);
    }
}

static void do_wait(struct story *s)
{
    static const uint64_t waits[] = {30, 120, 700, 1100, 2500, 4000};
    uint64_t ms = waits[story_draw(s, 6)];
    struct epoch *e;
    int brief = s->players[BRIEF].epoch;
    e = brief >= 0 ? &s->epochs[brief] : NULL;
    if (e != NULL && e->away != 0 &&
        s->world.now + ms >= e->away + BRIEF_EXPIRY * 1000)
        epoch_end(s, BRIEF);
    if (s->error[0] == '\0' && world_advance(&s->world, ms) < 0)
        story_fail(s, s->world.error, -1, 0);
}

/* The process ends, one way or the other, and a new one starts. */
static void do_restart(struct story *s, int kill)
{
    do_cut(s, BRIEF); /* so that it is known when it left */
    story_turn(s);
    for (int c = 0; c < CLIENTS; c++)
        player_leave(s, c);
    for (size_t i = 0; i < s->delivery_count; i++) {
        struct delivery *d = &s->deliveries[i];
        if (d->past_killed == NOT_YET && d->done != NOT_YET && d->qos > 0)
            d->done_at = UINT64_MAX / 2; /* not written: it may come again */
    }
    if (kill)
        world_kill(&s->world);
    else if (world_stop(&s->world) < 0)
        story_fail(s, s->world.error, -1, 1);
    moment_add(s);
    if (s->error[0] == '\0' &&
        world_open(&s->world, s->disk, s->world.now + 5) < 0)
        story_fail(s, s->world.error, -1, 2);
}

static void do_something(struct story *s)
{
    int client = (int)story_draw(s, CLIENTS);
    uint64_t what = story_draw(s, 100);
    struct player *p = &s->players[client];
    if (p->link < 0 && what < 60 && client != BRIEF)
        what = 72; /* mostly they come back */
    if (what < 35)
        do_publish(s, client);
    else if (what < 55)
        do_answer(s, client);
    else if (what < 60)
        do_subscribe(s, client, (int)story_draw(s, TOPICS),
                     (int)story_draw(s, 3));
    else if (what < 63)
        do_unsubscribe(s, client);
    else if (what < 66)
        do_fetch(s, client);
    else if (what < 78)
        do_connect(s, client,
                   client != WATCHER && story_draw(s, 12) == 0);
    else if (what < 82)
        do_cut(s, client);
    else if (what < 85)
        do_leave(s, client);
    else if (what < 97)
        do_wait(s);
    else
        do_restart(s, story_draw(s, 2) == 0);
}

/* ==== 5. the whole ======================================================== */

static void story_begin(struct story *s)
{
    for (int c = 0; c < CLIENTS; c++) {
        struct player *p = &s->players[c];
        p->epoch = p->link = p->will = p->subscribing = -1;
    }
    moment_add(s);
    if (world_open(&s->world, s->disk, s->world.now) < 0) {
        story_fail(s, s->world.error, -1, 0);
        return;
    }
    do_connect(s, WATCHER, 0);
    story_turn(s);
    do_subscribe(s, WATCHER, TOPICS, 2);
    story_turn(s);
    for (int c = 1; c < CLIENTS && s->error[0] == '\0'; c++) {
        if (c != WATCHER)
            do_connect(s, c, 0);
        story_turn(s);
        do_subscribe(s, c, c % TOPICS, 2 - (int)story_draw(s, 2));
        story_turn(s);
    }
}

struct story *story_new(uint64_t seed, int actions)
{
    struct story *s = (struct story *)mem_new(sizeof *s);
    s->seed = s->dice = seed;
    s->disk = disk_new(seed);
    s->world.disk = s->disk;
    s->world.now = UINT64_C(1700000000000);
    s->world.hear = story_hear;
    s->world.turned = story_turned;
    s->world.arg = s;
    (void)story_draw(s, 2);
    story_begin(s);
    for (int i = 0; i < actions && s->error[0] == '\0'; i++) {
        /* often several things happen in one turn */
        do_something(s);
        if (s->world.store != NULL && story_draw(s, 3) > 0)
            story_turn(s);
    }
    story_turn(s);
    moment_add(s);
    world_kill(&s->world);
    return s;
}

void story_free(struct story *s)
{
    for (int c = 0; c < CLIENTS; c++)
        buf_free(&s->players[c].answers);
    disk_free(s->disk);
    free(s->messages);
    free(s->deliveries);
    free(s->epochs);
    free(s->subs);
    free(s->moments);
    free(s);
}
