"""Holds what the server's page does, in headless Chromium. tools/page/check runs it."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
import urllib.request
from pathlib import Path

from fake import CHARACTERS, HTML, KEY, MODEL, PAGE, Fake
from playwright.sync_api import expect, sync_playwright

SIZE_LIMIT = 30_000


def browser_path():
    named = os.environ.get("GEMMA_XLA_CHROMIUM")
    for name in [named] if named else ["chromium", "chromium-browser", "google-chrome"]:
        found = shutil.which(name)
        if found:
            return found
    sys.exit(f"error: no {named or 'chromium'} on the path; on Debian: apt-get install chromium")


class Visit:
    """A page in a tab of its own, with what goes wrong in it written down."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.url = url
        self.faults = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self.console)
        self.page.on("request", self.request)
        self.page.goto(url)

    def console(self, message):
        # Chromium writes a line for each response that is an error; those are asked for here.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def request(self, request):
        if not request.url.startswith((self.url, "data:")):
            self.faults.append(f"the page asks another host: {request.url}")

    def send(self, text):
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def finish(self):
        """Waits until the last reply is whole."""
        expect(self.page.locator("article.model").last).not_to_have_attribute("aria-busy", "true", timeout=60_000)
        expect(self.page.get_by_role("button", name="Send")).to_be_visible(timeout=60_000)

    def reply(self):
        return self.page.locator("article.model").last.locator(".text")

    def problem(self):
        return self.page.locator("article.model").last.locator(".problem")

    def close(self):
        self.context.close()
        assert not self.faults, self.faults


def open_settings(page):
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_be_visible()


def streams_a_reply(visit, fake):
    page = visit.page
    expect(page.locator("#model")).to_have_text(MODEL)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    visit.send("hello")
    expect(page.locator("article.model")).to_have_attribute("aria-busy", "true")
    expect(visit.reply()).to_contain_text("You said: hello.")
    visit.finish()
    expect(page.locator(".foot")).to_contain_text("21 tokens · ")
    expect(page.locator(".foot")).to_contain_text("tokens/s · first after ")
    visit.send("again")
    visit.finish()
    path, headers, body = fake.requests[-1]
    assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
    assert body["model"] == MODEL
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"], body
    assert body["messages"][1]["content"].startswith("You said: hello.")
    # What is not set is left to the server.
    assert not {"temperature", "top_p", "top_k", "max_tokens", "seed"} & body.keys(), body
    assert "Authorization" not in headers


def joins_split_characters(visit, fake):
    visit.send("characters")
    visit.finish()
    assert visit.reply().inner_text() == CHARACTERS, visit.reply().inner_text()
    expect(visit.problem()).to_have_count(0)


def stops_and_keeps_what_came(visit, fake):
    page = visit.page
    visit.send("slow")
    expect(visit.reply()).to_contain_text("word5 ")
    page.get_by_role("button", name="Stop").click()
    visit.finish()
    assert fake.gone.wait(10), "the server did not see that the client had gone"
    expect(page.locator(".foot")).to_contain_text("stopped")
    expect(visit.problem()).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    stopped = visit.reply().inner_text()
    page.wait_for_timeout(200)
    assert visit.reply().inner_text() == stopped
    visit.send("more")
    visit.finish()
    roles = [message["role"] for message in fake.requests[-1][2]["messages"]]
    assert roles == ["user", "assistant", "user"], roles


def stops_before_the_first_token(visit, fake):
    visit.send("silent")
    expect(visit.page.get_by_role("button", name="Stop")).to_be_visible()
    visit.page.wait_for_timeout(200)
    visit.page.keyboard.press("Escape")
    visit.finish()
    # The message without a reply is taken back, so that turns alternate.
    expect(visit.page.get_by_label("Message", exact=True)).to_have_value("silent")
    visit.send("hello")
    visit.finish()
    assert [message["content"] for message in fake.requests[-1][2]["messages"]] == ["hello"]


def shows_errors(visit, fake):
    for text, said in [
        ("error 400", "Error 400: temperature: must be at most 2, not 3"),
        ("error 429", "Error 429: the queue is full (try again in 7 s)"),
        ("error 502", "Error 502: <h1>Bad gateway</h1>"),
        ("error 503", "Error 503: the server is shutting down"),
        ("no json", "The server sent an event that is not JSON."),
    ]:
        visit.send(text)
        visit.finish()
        assert visit.problem().inner_text() == said, visit.problem().inner_text()
        expect(visit.page.get_by_label("Message", exact=True)).to_have_value(text)
    for text, said in [
        ("error in the stream", "the device failed"),
        ("cut", "The connection ended before the reply did."),
    ]:
        visit.send(text)
        visit.finish()
        assert visit.problem().inner_text() == said, visit.problem().inner_text()
        assert visit.reply().inner_text() == "half a re"
    visit.send("length")
    visit.finish()
    expect(visit.page.locator(".foot").last).to_contain_text("cut at the limit of tokens")


def says_that_the_server_is_gone(visit, fake):
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    visit.send("hello")
    visit.finish()
    expect(visit.problem()).to_have_text("The server could not be reached.")


def says_what_models_there_are(browser, fake):
    fake.models = []
    visit = Visit(browser, fake.url)
    expect(visit.page.locator("#model")).to_have_text("the server has no model")
    visit.close()
    fake.models = [MODEL, "another"]
    visit = Visit(browser, fake.url)
    visit.page.get_by_label("Model").select_option("another")
    visit.send("hello")
    visit.finish()
    assert fake.requests[-1][2]["model"] == "another"
    visit.close()
    fake.models, fake.ready = [MODEL], False
    visit = Visit(browser, fake.url)
    expect(visit.page.locator("#model")).to_have_text("not ready yet")
    fake.ready = True
    expect(visit.page.locator("#model")).to_have_text(MODEL, timeout=10_000)
    visit.close()


def sends_the_key(browser, fake):
    fake.key = KEY
    visit = Visit(browser, fake.url)
    page = visit.page
    expect(page.locator("#model")).to_have_text("an API key is needed")
    visit.send("hello")
    visit.finish()
    expect(visit.problem()).to_have_text("Error 401: a key is required")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Tab")
    expect(page.locator("#model")).to_have_text(MODEL)
    visit.send("hello")
    visit.finish()
    expect(visit.reply()).to_contain_text("You said: hello.")
    assert fake.requests[-1][1]["Authorization"] == f"Bearer {KEY}"
    # The key outlives the page in this tab, and nowhere else.
    page.reload()
    expect(page.locator("#model")).to_have_text(MODEL)
    kept = page.evaluate("JSON.stringify([Object.entries(localStorage), document.cookie, location.href])")
    assert KEY not in kept, kept
    assert KEY in page.evaluate("JSON.stringify(Object.entries(sessionStorage))")
    other = visit.context.new_page()
    other.goto(fake.url)
    expect(other.locator("#model")).to_have_text("an API key is needed")
    visit.close()
    fake.key = None


def sends_the_settings(visit, fake):
    page = visit.page
    open_settings(page)
    values = {"Temperature": 0.7, "Top p": 0.9, "Top k": 40, "Max tokens": 64, "Seed": 1234567890123}
    for label, value in values.items():
        page.get_by_label(label).fill(str(value))
    page.get_by_label("System message").fill("Be brief.")
    visit.send("hello")
    visit.finish()
    body = fake.requests[-1][2]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    sent = [body[name] for name in ["temperature", "top_p", "top_k", "max_tokens", "seed"]]
    assert sent == list(values.values()), sent
    page.get_by_label("Temperature").fill("3")
    before = len(fake.requests)
    visit.send("hello")
    visit.finish()
    expect(visit.problem()).to_contain_text("Temperature: ")
    assert len(fake.requests) == before, "a setting that is out of range was sent"


def shows_text_as_text(visit, fake):
    page = visit.page
    visit.send(HTML)
    visit.finish()
    visit.send("code")
    visit.finish()
    page.wait_for_timeout(100)
    assert page.title() == "gemma-xla"
    assert page.locator("article img, article script, article b").count() == 0
    assert page.locator("article.user").first.locator(".text").inner_text() == HTML
    assert HTML in visit.reply().inner_text()
    expect(visit.reply().locator("strong")).to_have_text("the")
    expect(visit.reply().locator("p code")).to_have_text("function")
    assert visit.reply().locator("pre code").inner_text() == 'def f(x):\n    return "<b>" * x'
    assert "```" not in visit.reply().inner_text()


def copies(visit, fake):
    page = visit.page
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.send("code")
    visit.finish()
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == 'def f(x):\n    return "<b>" * x'
    page.get_by_role("button", name="Copy", exact=True).click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("Here is **the** `function`")
    # Without the clipboard's interface, as on plain http of another machine.
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.wait_for_timeout(1600)
    page.get_by_role("button", name="Copy code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()


def starts_a_new_conversation(visit, fake):
    page = visit.page
    visit.send("slow")
    expect(visit.reply()).to_contain_text("word2 ")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_text("Write a message to begin.")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert fake.gone.wait(10)
    visit.send("hello")
    visit.finish()
    expect(page.locator("article")).to_have_count(2)
    assert [message["content"] for message in fake.requests[-1][2]["messages"]] == ["hello"]


def works_with_the_keyboard_alone(visit, fake):
    page, keyboard = visit.page, visit.page.keyboard

    def focused():
        return page.evaluate("document.activeElement.id")

    order = [focused()]
    for key in ["Shift+Tab"] * 3 + ["Tab"] * 4:
        keyboard.press(key)
        order.append(focused())
    assert order == ["input", "log", "toggle", "new", "toggle", "log", "input", "send"], order
    keyboard.press("Shift+Tab")
    keyboard.type("one")
    keyboard.press("Shift+Enter")
    keyboard.type("two")
    assert not fake.requests
    keyboard.press("Enter")
    visit.finish()
    assert fake.requests[-1][2]["messages"][-1]["content"] == "one\ntwo"
    # An input method's Enter sends nothing.
    keyboard.type("three")
    count = len(fake.requests)
    page.evaluate(
        "input.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true }))"
    )
    page.wait_for_timeout(100)
    assert len(fake.requests) == count
    keyboard.press("Control+A")
    keyboard.type("slow")
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(visit.reply()).to_contain_text("word2 ")
    keyboard.press("Escape")
    visit.finish()
    expect(page.locator(".foot").last).to_contain_text("stopped")
    # Settings open, close with Escape, and give the focus back.
    page.locator("#toggle").focus()
    keyboard.press("Space")
    keyboard.press("Tab")
    assert focused() == "system", focused()
    assert page.locator("#toggle").get_attribute("aria-expanded") == "true"
    keyboard.press("Escape")
    assert focused() == "toggle" and page.locator("#settings").is_hidden()


def has_names_and_no_motion(browser, fake):
    visit = Visit(browser, fake.url, reduced_motion="reduce")
    open_settings(visit.page)
    visit.send("slow")
    expect(visit.reply()).to_contain_text("word2 ")
    moving = visit.page.evaluate("document.getAnimations().length")
    assert moving == 0, f"{moving} animations run though motion is to be reduced"
    visit.page.keyboard.press("Escape")
    unnamed = visit.page.evaluate(
        """[...document.querySelectorAll('button, input, textarea, select')].filter(e => !e.hidden
           && !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.id)"""
    )
    assert not unnamed, unnamed
    visit.close()


CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const ground = node => { for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor); if (colour[3] !== 0) return colour; }
    return [255, 255, 255]; };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    if (!node.checkVisibility() || node.closest('.unsent, .hidden')) continue;
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push([node.tagName, node.textContent.slice(0, 30), (a + .05) / (b + .05)]);
  }
  return low;
}"""


def fits_every_width(browser, fake, pictures):
    for scheme in ["light", "dark"]:
        for width, height in [(360, 640), (1280, 800)]:
            visit = Visit(browser, fake.url, color_scheme=scheme, viewport={"width": width, "height": height})
            page = visit.page
            expect(page.locator("#model")).to_have_text(MODEL)

            def look(name):
                page.screenshot(path=pictures / f"{name}-{scheme}-{width}.png")
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} wide at {width}"
                outside = page.evaluate(
                    "[...document.querySelectorAll('button, input, textarea')].filter(e => e.checkVisibility())"
                    f".filter(e => e.getBoundingClientRect().right > {width}).map(e => e.id || e.textContent)"
                )
                assert not outside, outside
                bottom = page.locator("form").evaluate("e => e.getBoundingClientRect().bottom")
                tall = page.evaluate("document.documentElement.scrollHeight")
                assert (bottom, tall) == (height, height), f"{name} ends at {bottom}, {tall} of {height}"
                low = page.evaluate(CONTRAST)
                assert not low, f"too little contrast in {name}, {scheme}: {low}"

            look("empty")
            visit.send("Who was it that said so, and would they say it again if they were asked?")
            visit.finish()
            visit.send("code")
            visit.finish()
            look("conversation")
            visit.send("error 503")
            visit.finish()
            look("error")
            visit.send("slow")
            expect(visit.reply()).to_contain_text("word30 ")
            look("streaming")
            page.keyboard.press("Escape")
            visit.finish()
            open_settings(page)
            look("settings")
            visit.close()
            fake.models = ["a-model-with-quite-a-long-name-" * 3, "another"]
            visit = Visit(browser, fake.url, color_scheme=scheme, viewport={"width": width, "height": height})
            expect(visit.page.get_by_label("Model")).to_be_visible()
            page = visit.page
            look("models")
            visit.close()
            fake.models = [MODEL]


def drive_real(browser, url, key, pictures):
    """What can be held of a real server, whose replies are not known."""
    visit = Visit(browser, url, color_scheme="light", viewport={"width": 1280, "height": 800})
    page = visit.page
    served = page.request.get(url)
    csp = served.headers.get("content-security-policy", "")
    text_served = served.text()
    assert "script-src 'sha256-" in csp and "unsafe-inline" not in csp, f"the page's policy is {csp!r}"
    open_settings(page)
    if key:
        page.get_by_label("API key").fill(key)
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("24")
    page.get_by_label("Message", exact=True).focus()
    expect(page.locator("#model, #models").filter(visible=True)).not_to_have_text("…")
    visit.send("Tell me of Elizabeth.")
    visit.finish()
    expect(visit.problem()).to_have_count(0)
    expect(page.locator(".foot").last).to_contain_text("tokens/s")
    page.screenshot(path=pictures / "real.png")
    body = {
        "messages": [{"role": "user", "content": "Tell me of Elizabeth."}],
        "temperature": 0,
        "max_tokens": 24,
    }
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    asked = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    whole = json.load(urllib.request.urlopen(asked))
    text = whole["choices"][0]["message"]["content"]
    shown = visit.reply().text_content()
    assert shown.split() == text.split(), f"streamed {shown!r}, whole {text!r}"
    page.get_by_label("Max tokens").fill("300")
    visit.send("Go on.")
    page.wait_for_timeout(300)
    page.keyboard.press("Escape")
    visit.finish()
    page.get_by_label("Max tokens").fill("1000000000")
    visit.send("And then?")
    visit.finish()
    expect(visit.problem()).to_contain_text("Error 400")
    visit.close()
    assert text_served == PAGE.read_text(), "the server's page is not the one here"


def run(name, case):
    try:
        case()
    except (AssertionError, Exception) as error:  # a failure of one does not hide the others
        print(f"FAILED {name}: {type(error).__name__}: {error}")
        traceback.print_exc()
        return False
    print(f"ok     {name}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that runs, instead of the fake")
    parser.add_argument("--api-key", help="its key")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures [default: a new one]")
    parser.add_argument("--only", help="run the cases whose names contain this")
    options = parser.parse_args()
    pictures = options.pictures or Path(tempfile.mkdtemp(prefix="gemma-xla-page-"))
    pictures.mkdir(parents=True, exist_ok=True)
    size = PAGE.stat().st_size
    assert size <= SIZE_LIMIT, f"the page has {size} bytes"

    visits = [
        streams_a_reply,
        joins_split_characters,
        stops_and_keeps_what_came,
        stops_before_the_first_token,
        shows_errors,
        says_that_the_server_is_gone,
        sends_the_settings,
        shows_text_as_text,
        copies,
        starts_a_new_conversation,
        works_with_the_keyboard_alone,
    ]
    passed = True
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path())
        if options.url:
            passed = run("the real server", lambda: drive_real(browser, options.url, options.api_key, pictures))
        else:

            def visited(case):
                fake = Fake()
                visit = Visit(browser, fake.url)
                case(visit, fake)
                visit.close()

            cases = {case.__name__: lambda case=case: visited(case) for case in visits}
            for case in [says_what_models_there_are, sends_the_key, has_names_and_no_motion]:
                cases[case.__name__] = lambda case=case: case(browser, Fake())
            cases[fits_every_width.__name__] = lambda: fits_every_width(browser, Fake(), pictures)
            for name, case in cases.items():
                if not options.only or options.only in name:
                    passed &= run(name.replace("_", " "), case)
        browser.close()
    print(f"pictures: {pictures}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
