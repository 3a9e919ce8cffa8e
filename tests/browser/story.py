"""The walkthrough of README.md, seen on the status page by a browser.

    story.py holdfast chromium work

What the page is asked is the text that it shows and where it shows it, never
its HTML.  Nothing sleeps: conditions are awaited.  One line per check."""

import json
import os
import shutil
import signal
import subprocess
import sys
from urllib.parse import quote

from devtools import Browser
from mqtt import Client

CLIENT = "robustmq_client"
TOPIC = "sensor/temperature"
PAYLOAD = '{"temperature": 25.5, "humidity": 60}'

SCRIPT = "<script>alert(1)</script>"
BIDI = "\u202egnp.exe\u2066"
MARKUP_TOPIC = 'a&b"<i>'
MARKUP = "<img src=x onerror=alert(2)>"
LONG = "long-" + "x" * 295

SCREENS = [  # name, width, height, phone, dark
    ("desktop", 1280, 800, False, False),
    ("desktop-dark", 1280, 800, False, True),
    ("phone", 360, 740, True, False),
    ("phone-dark", 360, 740, True, True),
]


def js(value):
    return json.dumps(value)


def seen(client):
    return "seen(%s)" % js(client)


def shows(client, head, value):
    """The row's cell of this column is visible and begins with this."""
    there = "cell(row(%s), %s)" % (js(client), js(head))
    return "shown({0}) && first({0}).startsWith({1})".format(there, js(value))


def queued(client, count):
    """Wholly this number: 1 is not 10."""
    there = "cell(row(%s), 'Queued')" % js(client)
    return "shown({0}) && first({0}) === {1}".format(there, js(str(count)))


class Broker:
    """The broker under test; it comes back on the ports that it had."""

    def __init__(self, program, work):
        self.program = program
        self.store = os.path.join(work, "data")
        self.log = open(os.path.join(work, "broker.log"), "wb")
        self.port = 0
        self.page = "127.0.0.1:0"
        shutil.rmtree(self.store, ignore_errors=True)
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "-p", str(self.port), "-s", self.page,
             "-d", self.store], stdout=subprocess.PIPE, stderr=self.log,
            text=True)
        ready = self.process.stdout.readline()
        if not ready.startswith("holdfast ready"):
            raise RuntimeError("the broker does not start; see broker.log")
        facts = dict(f.split("=", 1) for f in ready.split() if "=" in f)
        self.port = int(facts["port"])
        self.url = facts["status"]
        self.page = self.url[len("http://"):-1]

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Story:
    def __init__(self, program, chromium, work):
        self.work = work
        self.passed = self.failed = 0
        self.broker = Broker(program, work)
        self.browser = None
        try:
            self.browser = Browser(chromium, work)
        finally:
            if self.browser is None:
                self.broker.kill()

    def check(self, name, good, detail=""):
        """What was found instead, if it is not good, is in the detail."""
        if good:
            self.passed += 1
            print("ok", name, flush=True)
        else:
            self.failed += 1
            print("FAILED", name, detail, flush=True)

    def wait(self, name, expression):
        self.check(name, self.browser.wait(expression),
                   "(never true: %s)" % expression)

    def open(self, path):
        self.browser.open(self.broker.url + path)

    def refreshed(self):
        """Waits until the page has brought itself up to date once more."""
        before = self.browser.look("asof()")
        return self.browser.wait("asof() !== " + js(before))

    def pictures(self, name):
        for screen, *how in SCREENS:
            self.browser.screen(*how)
            self.browser.look("scrollTo(0, 0)")
            path = os.path.join(self.work, name + "-" + screen)
            self.browser.picture(path + ".png")
            if how[2]:
                self.browser.picture(path + "-whole.png", whole=True)
        self.desktop()

    def desktop(self):
        self.browser.screen(*SCREENS[0][1:])

    # ---- chapters ---------------------------------------------------------

    def walkthrough(self):
        """All of it on one page that is loaded once."""
        b = self.browser
        self.desktop()
        self.open("")
        self.wait("the overview says that there is no session",
                  "shown(document.querySelector('.empty'))")
        b.look("window.once = true")
        subscriber = Client(self.broker.port, CLIENT)
        subscriber.subscribe(TOPIC, 0)
        self.wait("the session's row appears", seen(CLIENT))
        self.wait("... online", shows(CLIENT, "State", "online"))
        self.wait("... with a subscription",
                  shows(CLIENT, "Subscriptions", "1"))
        subscriber.leave()
        self.wait("the client leaves: the row stays, offline",
                  seen(CLIENT) + "&&" + shows(CLIENT, "State", "offline"))
        self.wait("... with an empty queue", queued(CLIENT, 0))
        with Client(self.broker.port, "publisher") as publisher:
            publisher.publish(TOPIC, PAYLOAD)
        self.wait("what is published to it is queued: 1", queued(CLIENT, 1))
        self.check("all this on a page that was loaded once",
                   b.look("window.once === true"))
        self.pictures("overview")

    def session_page(self, name):
        b = self.browser
        b.look("!!reveal(row(%s))" % js(CLIENT))
        b.click("row(%s).querySelector('a')" % js(CLIENT))
        self.wait(name + ": a click on the row opens the session's page",
                  "location.pathname === '/sessions/%s' && "
                  "shown(document.querySelector('h1'))" % CLIENT)
        there = "row(%s)" % js(TOPIC)
        self.wait(name + ": it shows the topic",
                  "shown(%s.children[0])" % there)
        self.wait(name + ": it shows the payload",
                  "(c => shown(c) && text(c) === %s)(cell(%s, 'Payload'))"
                  % (js(PAYLOAD), there))

    def outage(self):
        b = self.browser
        self.open("")
        b.look("window.once = true")
        self.quiet("before the broker is killed")
        self.broker.kill()
        self.wait("the broker is killed: the page says so",
                  "shown(state()) && text(state()).includes('not answer')")
        self.check("... by the clock of the page", b.look(
            "text(state()).includes(asof().match(/As of (.* UTC)/)[1])"))
        self.check("... and what it last knew stays in sight",
                   b.look(seen(CLIENT)))
        b.screen(*SCREENS[2][1:])
        b.look("scrollTo(0, document.body.scrollHeight)")
        self.wait("... on the end of a phone's page, too", "shown(state())")
        self.desktop()
        b.picture(os.path.join(self.work, "overview-no-answer.png"))
        self.broker.start()
        self.wait("it is started again: the page notices by itself",
                  "text(state()).startsWith('Refreshed') && "
                  "window.once === true")
        self.wait("... the session is there, offline",
                  shows(CLIENT, "State", "offline"))
        self.wait("... and its message", queued(CLIENT, 1))
        b.events = [e for e in b.events  # refusals were to be expected
                    if e[0] != "Log.entryAdded"]
        self.session_page("after the restart")

    def back(self):
        self.open("")
        subscriber = Client(self.broker.port, CLIENT)
        self.check("the subscriber finds its session", subscriber.present)
        got = subscriber.message()
        self.check("... and gets its message", got == (TOPIC, PAYLOAD), got)
        self.wait("the page shows it online",
                  shows(CLIENT, "State", "online"))
        self.wait("... with an empty queue", queued(CLIENT, 0))
        subscriber.leave()

    def names(self):
        """Names and texts that would do harm if they were not escaped."""
        b = self.browser
        self.resident = Client(self.broker.port, "resident", will="gone")
        self.resident.subscribe("deep/#", 2)
        for name in SCRIPT, BIDI, LONG:
            with Client(self.broker.port, name, will="gone/" + LONG) as client:
                client.subscribe(MARKUP_TOPIC, 1)
                client.subscribe("deep/" + LONG + "/#", 1)
        with Client(self.broker.port, "publisher") as publisher:
            publisher.publish(MARKUP_TOPIC, MARKUP, 1, retain=True)
            publisher.publish("deep/" + LONG, bytes(range(256)), 1, retain=True)
        self.open("")
        b.look("!!reveal(row(%s))" % js(SCRIPT))
        self.wait("a client named <script> is shown as text", seen(SCRIPT))
        self.wait("bidirectional controls are shown by their code points",
                  "(r => shown(reveal(r)) && !/[\u202a-\u202e\u2066-\u2069]/"
                  ".test(text(r)))([...document.querySelectorAll('tbody tr')]"
                  ".find(r => /202E.*gnp\\.exe.*2066/.test(text(r))))")
        self.unhurt("the overview")
        self.pictures("names")
        b.look("!!reveal(row(%s))" % js(SCRIPT))
        b.click("row(%s).querySelector('a')" % js(SCRIPT))
        self.wait("its page has its name as a heading",
                  "(h => shown(h) && text(h).includes(%s))"
                  "(document.querySelector('h1'))" % js(SCRIPT))
        self.markup_row("its page")
        self.pictures("session-names")
        self.open("retained")
        self.markup_row("the retained messages")
        self.pictures("retained")

    def markup_row(self, name):
        self.wait(name + ": markup in topic and payload is shown as text",
                  "(r => shown(reveal(r)) && text(cell(r, 'Payload')) === %s)"
                  "(row(%s))" % (js(MARKUP), js(MARKUP_TOPIC)))
        self.unhurt(name)

    def unhurt(self, name):
        found = self.browser.look(
            "[...document.querySelectorAll('main script, main i, main img')]"
            ".map(e => e.outerHTML)")
        self.check(name + ": no name has made an element", found == [], found)

    def marks(self):
        """A client that breaks the standard, and one that does not."""
        b = self.browser
        clumsy = Client(self.broker.port, "clumsy")
        clumsy.acknowledge(77)
        self.open("clients")
        self.wait("the list of clients says that one broke a statement",
                  "shown(reveal(row('clumsy'))) && " +
                  shows("clumsy", "Statements broken", "1 broken"))
        self.check("... and that another broke none", b.look(
            "(c => shown(reveal(c)) && first(c) === 'none')"
            "(cell(row('resident'), 'Statements broken'))"))
        self.pictures("clients")
        b.look("!!reveal(row('clumsy'))")
        b.click("row('clumsy').querySelector('a')")
        broken = "row('[MQTT-2.2.1-5]')"
        self.wait("a click on it opens its marks, the broken one in sight",
                  "location.pathname === '/clients/clumsy' && shown(%s)"
                  % broken)
        self.check("... as the first", b.look(
            "%s === document.querySelector('tbody tr')" % broken))
        self.check("... below a heading that says so", b.look(
            "first(%s.closest('section').querySelector('h2'))"
            ".startsWith('Broken')" % broken))
        self.check("... with its words", b.look(
            "first(cell(%s, 'How it was broken last')).includes('77')"
            % broken))
        b.look("window.once = true")
        clumsy.acknowledge(78)
        self.wait("it breaks it again: the page counts by itself",
                  "first(cell(%s, 'Broken')) === '2' && window.once === true"
                  % broken)
        self.pictures("marks")
        clumsy.leave()

    def search(self):
        """Typing while the page refreshes, and what the search finds."""
        b = self.browser
        self.open("")
        b.look("window.once = true")
        b.click("document.getElementById('q')")
        b.type("robust")
        self.refreshed()
        b.type("mq")
        self.refreshed()
        held = ("(q => q === document.activeElement && q.value === "
                "'robustmq' && q.selectionStart === 8)"
                "(document.getElementById('q'))")
        self.check("text and focus stay in the search box while it refreshes",
                   b.look(held + " && window.once === true"))
        b.enter()
        self.wait("Enter searches: the row that fits is there",
                  "location.search.includes('q=robustmq') && " + seen(CLIENT))
        self.check("... and no other", b.look(
            "document.querySelectorAll('tbody tr').length === 1"))
        self.box("robustmq")
        for text in " x", BIDI, '"><i>':
            self.open("?q=" + quote(text))
            self.box(text)

    def box(self, text):
        value = self.browser.look("document.getElementById('q').value")
        self.check("the search box holds what was looked for, " + ascii(text),
                   value == text, ascii(value))

    def keyboard(self):
        b = self.browser
        self.open("")
        stops = []
        rows = b.look("[...document.querySelectorAll('tbody tr a')]"
                      ".map(text)")
        for _ in range(20 + len(rows)):
            b.tab()
            stops.append(b.look("focused()"))
            if stops[-1]["row"] and stops[-1]["text"] == rows[-1]:
                break
        self.check("Tab: the skip link is first", stops[0]["skip"])
        order = [s["text"] for s in stops if s["filter"] or s["row"]]
        filters = ["all", "online", "offline", "waiting"]
        self.check("Tab: then the search box, the filters, the rows in order",
                   [s["id"] for s in stops].count("q") == 1 and
                   order == filters + rows and
                   [s["id"] for s in stops].index("q") <
                   [s["filter"] for s in stops].index(True), stops)
        unseen = [s for s in stops if not s["seen"]]
        self.check("Tab: each stop is in sight and has an outline",
                   not unseen, unseen)
        self.refreshed()
        self.check("the focus stays on a row while the page refreshes",
                   b.look("focused().text") == rows[-1])
        self.open("")
        b.tab()
        b.enter()
        self.wait("the skip link leads to the content",
                  "document.activeElement.id === 'main'")
        b.tab()
        self.check("... and Tab goes on from there",
                   b.look("focused().text !== '' && document.activeElement "
                          "=== document.querySelector('main a')"))

    def paths(self):
        """Every kind of page."""
        found = self.browser.look
        self.open("")
        links = found("[...document.querySelectorAll('tbody a')]"
                      ".map(a => a.pathname.slice(1))")
        # who has so long a name has no record
        marks = [path.replace("sessions/", "clients/", 1) for path in links
                 if LONG not in path]
        return ["", "?q=none", "?show=offline", "retained",
                "retained?filter=%23x", "clients", "sessions/nobody",
                "clients/nobody"] + links + marks

    def phone(self):
        for path in self.paths():
            self.browser.screen(*SCREENS[2][1:])
            self.open(path)
            width = self.browser.look(
                "Math.max(innerWidth, document.documentElement.scrollWidth)")
            self.check("360 pixels: /%.40s does not scroll sideways" % path,
                       width <= 360, width)
        self.browser.screen(*SCREENS[2][1:])
        self.open("")
        for client, state in (CLIENT, "offline"), ("resident", "online"):
            there = "cell(reveal(row(%s)), 'State')" % js(client)
            found = self.browser.look("shown({0}) && first({0})".format(there))
            self.check("360 pixels: the row of %s says on one line that it is "
                       "%s" % (client, state),
                       str(found).startswith(state + " for "), found)
        b = self.browser
        b.look("!!reveal(document.querySelector('dl a'))")
        b.click("document.querySelector('dl a')")
        self.wait("360 pixels: a tap on the sessions online shows them",
                  "location.search === '?show=online' && " +
                  shows("resident", "State", "online"))
        self.desktop()

    def colours(self):
        b = self.browser
        kinds = set()
        for dark in False, True:
            scheme = "dark" if dark else "light"
            faint, count = [], 0
            for path in self.paths():
                b.screen(1280, 800, False, dark)
                self.open(path)
                found = b.look("contrasts()")
                count += len(found)
                faint += [f for f in found if f["ratio"] < 4.5]
                kinds.update(*[f["kind"] for f in found])
            ground = b.look("light(ground(document.body))")
            self.check("%s: the ground is %s" % (scheme, scheme),
                       ground < 0.05 if dark else ground > 0.8, ground)
            self.check("%s: all text has contrast 4.5 or more" % scheme,
                       count > 100 and not faint, (count, faint[:8]))
        missing = {"p", "a", "button", "online", "offline", "odd",
                   "broken"} - kinds
        self.check("... links, badges, odd names and broken marks among it",
                   not missing, missing)
        self.desktop()

    def without_script(self):
        b = self.browser
        self.open("clients")  # anywhere else
        b.send("Emulation.setScriptExecutionDisabled", value=True)
        before = self.documents()
        self.open("")
        self.check("without JavaScript: the row is there",
                   b.look("shown(reveal(row(%s)))" % js(CLIENT)))
        self.check("... and no script ran", b.look(
            "!text(state()).includes('every 3 seconds')"))
        with Client(self.broker.port, "latecomer"):
            pass
        self.wait("... it refreshes itself: a new session comes into sight",
                  "shown(reveal(row('latecomer')))")
        self.check("... by being loaded again", self.documents() > before + 1)
        b.picture(os.path.join(self.work, "overview-no-script.png"))
        b.send("Emulation.setScriptExecutionDisabled", value=False)

    # ---- what must not happen ----------------------------------------------

    def documents(self):
        return len([1 for method, params in self.browser.events
                    if method == "Network.requestWillBeSent" and
                    params.get("type") == "Document"])

    def complaints(self):
        """What the browser had to say against the page."""
        for method, params in self.browser.events:
            if method == "Log.entryAdded":
                entry = params["entry"]
                missing = entry.get("url", "").endswith("/nobody")
                bad = entry.get("url", "").endswith("?filter=%23x")
                if entry["level"] != "verbose" and not missing and not bad:
                    yield entry["text"] + " " + entry.get("url", "")
            elif method == "Runtime.exceptionThrown":
                yield params["exceptionDetails"]["text"]
            elif method == "Runtime.consoleAPICalled":
                yield "console: " + str(params["args"])

    def quiet(self, when):
        events = self.browser.events
        said = list(self.complaints())
        self.check("no error in the console, nothing against the policy, "
                   + when, not said, said)
        dialogs = [params["message"] for method, params in events
                   if method == "Page.javascriptDialogOpening"]
        self.check("no dialog, " + when, not dialogs, dialogs)
        urls = [params["request"]["url"] for method, params in events
                if method == "Network.requestWillBeSent"]
        other = [u for u in urls if not u.startswith(self.broker.url)]
        self.check("no request to anywhere but the broker, " + when,
                   urls and not other, other)

    def tell(self):
        self.walkthrough()
        self.session_page("queued")
        self.pictures("session")
        self.outage()
        self.back()
        self.names()
        self.marks()
        self.search()
        self.keyboard()
        self.phone()
        self.colours()
        self.without_script()
        self.quiet("since then")

    def end(self):
        self.browser.close()
        self.broker.kill()
        print("%d passed, %d failed" % (self.passed, self.failed))
        return 1 if self.failed else 0


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    story = Story(*sys.argv[1:4])
    try:
        story.tell()
    except Exception as error:
        story.check("the story is told to its end", False, repr(error))
        raise
    finally:
        status = story.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
