// What the story asks of a page; put before each expression that it looks at.

// The element can be seen without scrolling: it has a box, which is wholly
// inside the window, and at its middle nothing else lies over it.
const middle = (element) => {
    const box = element.getClientRects()[0];
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
};
const shown = (element) => {
    if (!element || !element.getClientRects().length) return false;
    const seen = { opacityProperty: true, visibilityProperty: true };
    const box = element.getBoundingClientRect();
    const { x, y } = middle(element);
    const top = document.elementFromPoint(x, y);
    return element.checkVisibility(seen) && box.width > 0 && box.height > 0 &&
        box.left >= 0 && box.right <= document.documentElement.clientWidth &&
        box.top >= 0 && box.bottom <= window.innerHeight &&
        !!top && (element.contains(top) || top.contains(element));
};

// What an element shows, and the first line of it.
const text = (element) =>
    element && element.checkVisibility() ? element.innerText.trim() : "";
const first = (element) => text(element).split("\n")[0].trim();

// The row of a table whose heading shows this, and its cells.
const row = (name) => [...document.querySelectorAll("tbody tr")]
    .find((tr) => text(tr.querySelector("th")) === name);
const cell = (tr, head) =>
    [...(tr ? tr.children : [])].find((c) => c.dataset.label === head);
const seen = (name) => shown(row(name)) && shown(row(name).children[0]);
const reveal = (element) => {
    if (element) element.scrollIntoView({ block: "center" });
    return element;
};

const state = () => document.getElementById("state");
const asof = () => text(document.querySelector(".as-of"));
const drawn = () => new Promise((done) =>
    requestAnimationFrame(() => requestAnimationFrame(() => done(true))));

// Contrast as WCAG 2.2 has it.
const color = (css) => {
    const [r, g, b, a = 1] = css.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
};
const over = (top, below) => {
    const mix = (k) => top[k] * top.a + below[k] * (1 - top.a);
    return { r: mix("r"), g: mix("g"), b: mix("b"), a: 1 };
};
const ground = (element) => {
    if (!element) return color("rgb(255, 255, 255)");
    const own = color(getComputedStyle(element).backgroundColor);
    return own.a === 1 ? own : over(own, ground(element.parentElement));
};
const light = ({ r, g, b }) => {
    const part = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92
        : ((v / 255 + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
};
const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
};

// Every element with a text of its own: how it stands out from its ground.
const contrasts = () => [...document.body.querySelectorAll("*")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some(
        (n) => n.nodeType === Node.TEXT_NODE && n.data.trim()))
    .map((e) => {
        const below = ground(e);
        const ink = over(color(getComputedStyle(e).color), below);
        return {
            what: e.localName + "." + e.className + " " + first(e).slice(0, 30),
            kind: [e.localName, ...e.classList], ratio: ratio(ink, below),
        };
    });

// The element with the focus, and how that is to be seen.
const focused = () => {
    const e = document.activeElement;
    const style = getComputedStyle(e);
    const outline = style.outlineStyle !== "none" &&
        parseFloat(style.outlineWidth) >= 2 &&
        ratio(color(style.outlineColor), ground(e.parentElement)) >= 3;
    return {
        tag: e.localName, id: e.id, skip: e.className === "skip",
        text: first(e), filter: !!e.closest(".filters"),
        row: !!e.closest("tbody"), seen: outline && shown(e),
    };
};
