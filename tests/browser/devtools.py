"""A headless Chromium, driven through its own debugging pipe: JSON, each
message ended by a zero byte, on the browser's descriptors 3 and 4."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time

LIMIT = 60  # seconds that a condition, or an answer, is awaited at most


class Browser:
    """One browser with one page."""

    def __init__(self, program, work):
        self.last = 0        # number of the last command
        self.rest = b""      # read from the browser, not yet a message
        self.answers = {}    # by number, until they are fetched
        self.events = []     # (method, params) of the page, all since the start
        self.session = None  # the page's, once there is one
        profile = os.path.join(work, "profile")
        shutil.rmtree(profile, ignore_errors=True)
        self.log = open(os.path.join(work, "chromium.log"), "wb")
        self.start(program, profile)
        target = self.send("Target.createTarget", url="about:blank")
        target = target["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target,
                                 flatten=True)["sessionId"]
        for domain in "Page", "Runtime", "Network", "Log":
            self.send(domain + ".enable")

    def start(self, program, profile):
        command = [
            program, "--headless", "--remote-debugging-pipe",
            "--user-data-dir=" + profile, "--lang=en-US", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update",
            "--disable-extensions", "--disable-sync", "--no-proxy-server",
        ]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # its sandbox refuses root
        hear, self.write = os.pipe()
        self.read, tell = os.pipe()

        def ends():
            # By way of high numbers, lest one end closes the other.
            high = [os.dup2(hear, 103), os.dup2(tell, 104)]
            for low, end in zip((3, 4), high):
                os.dup2(end, low)
                os.close(end)

        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, preexec_fn=ends, close_fds=False,
            start_new_session=True)
        os.close(hear)
        os.close(tell)

    def close(self):
        """Ends it with all its processes, which are a group of their own."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()

    # ---- messages ---------------------------------------------------------

    def receive(self, seconds):
        """Takes in what the browser says within this time."""
        if not select.select([self.read], [], [], seconds)[0]:
            return
        more = os.read(self.read, 1 << 20)
        if not more:
            raise RuntimeError("Chromium has ended; see chromium.log")
        *whole, self.rest = (self.rest + more).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.event(message["method"], message.get("params", {}))

    def event(self, method, params):
        self.events.append((method, params))
        if method == "Page.javascriptDialogOpening":  # else the page hangs
            self.post("Page.handleJavaScriptDialog", accept=False)

    def post(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self.write, text):]
        return self.last

    def send(self, method, **params):
        """One command; its result."""
        number = self.post(method, **params)
        end = time.monotonic() + LIMIT
        while number not in self.answers:
            if time.monotonic() > end:
                raise RuntimeError("no answer to " + method)
            self.receive(1)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise RuntimeError(method + ": " + answer["error"]["message"])
        return answer["result"]

    # ---- the page ---------------------------------------------------------

    def look(self, expression):
        """The value of an expression of the page, in which all of page.js is
        at hand; None while there is no page."""
        here = os.path.join(os.path.dirname(__file__), "page.js")
        with open(here, encoding="utf-8") as source:
            text = source.read() + "return (" + expression + ");"
        try:
            result = self.send("Runtime.evaluate", returnByValue=True,
                               expression="(() => {" + text + "})()",
                               awaitPromise=True)
        except RuntimeError as error:
            if "context" in str(error) or "navigated" in str(error):
                return None  # the page was just being replaced
            raise
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            text = details.get("exception", {}).get("description", "")
            raise RuntimeError("in %s: %s" % (expression, text))
        return result["result"].get("value")

    def wait(self, expression):
        """Waits until it is true; False: not within the limit."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if self.look(expression):
                return True
            self.receive(0.05)
        return False

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && "
                  "location.href === " + json.dumps(url))

    def screen(self, width, height, phone, dark):
        self.send("Emulation.setDeviceMetricsOverride", width=width,
                  height=height, deviceScaleFactor=2 if phone else 1,
                  mobile=phone)
        scheme = "dark" if dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme}])
        self.look("drawn()")

    def picture(self, path, whole=False):
        params = {"format": "png"}
        if whole:
            size = self.look("({width: innerWidth, height: "
                             "document.documentElement.scrollHeight})")
            params["clip"] = dict(size, x=0, y=0, scale=1)
            params["captureBeyondViewport"] = True
        data = self.send("Page.captureScreenshot", **params)["data"]
        with open(path, "wb") as out:
            out.write(base64.b64decode(data))

    # ---- hands ------------------------------------------------------------

    def click(self, expression):
        """Clicks on the middle of an element."""
        at = self.look("middle(" + expression + ")")
        for kind in "mousePressed", "mouseReleased":
            self.send("Input.dispatchMouseEvent", type=kind, x=at["x"],
                      y=at["y"], button="left", clickCount=1)

    def key(self, name, code, text=None):
        extra = {"text": text} if text else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=name,
                  windowsVirtualKeyCode=code, **extra)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=name,
                  windowsVirtualKeyCode=code)

    def tab(self):
        self.key("Tab", 9)

    def enter(self):
        self.key("Enter", 13, "\r")

    def type(self, text):
        for c in text:
            self.key(c, ord(c.upper()), c)
