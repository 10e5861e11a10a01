"""Take the README's screenshots of a real conversation and of filled blanks: `python docs/screenshots.py [ADDRESS]`.

Start the web chat first with `python web_demo.py --temperature 0`. The script needs Chromium and Playwright, like the
browser tests, and writes the pictures to the folder of this file.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

HERE = Path(__file__).parent
TALKS = {
    "en": (
        ["What is the opposite of hot?"],
        ["Count from 1 to 10."],
        ["Hello", "What is 17 + 25?", "What is the capital of France?", "What is GLM-130B?"],
    ),
    "zh": (
        ["热的反义词是什么？"],
        ["苹果用英语怎么说？"],
        ["你是谁？", "17 + 25 等于多少？", "法国的首都是哪里？", "GLM-130B 是什么？"],
    ),
}
BLANKS = {
    "en": "The capital of [MASK] is Paris. After Monday comes [MASK].",
    "zh": "[MASK]的首都是巴黎。星期一的后面是[MASK]。",
}


def ask(page: Page, question: str) -> None:
    """Send a question, wait for the end of its answer, and print both."""
    answers = page.locator("#transcript .message.bot")
    before = answers.count()
    page.locator("#message textarea").fill(question)
    page.locator("#message textarea").press("Enter")
    expect(answers).to_have_count(before + 1)
    expect(page.locator("#message .submit-button")).to_be_visible()
    page.wait_for_timeout(500)
    print(f"{question} -> {answers.last.inner_text().strip()}")


def talk(page: Page, talks: tuple[list[str], ...]) -> None:
    """Have all conversations one after the other; the last one stays on the page."""
    for questions in talks:
        page.locator("#new-chat").click()
        expect(page.locator("#transcript .message")).to_have_count(0)
        for question in questions:
            ask(page, question)
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(700, 830)


def fill(page: Page, text: str) -> None:
    """Fill the blanks of a text in the other tab, wait for the end, and print the result."""
    page.locator("#fill-tab-button").click()
    page.locator("#fill-text textarea").fill(text)
    page.locator("#fill-start").click()
    expect(page.locator("#alternatives")).to_be_visible()
    page.wait_for_timeout(500)
    page.evaluate("document.activeElement.blur()")
    print(page.locator("#filled").inner_text())


def take(page: Page, name: str) -> None:
    """Write a picture of the page to the folder of this file."""
    path = HERE / name
    page.screenshot(path=path)
    shrink(path)


def shrink(path: Path) -> None:
    """Reduce a picture to 96 colours. The page has few colours, and the file shrinks to a third."""
    Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Take a picture of each tab in both languages."""
    address = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:7860/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for language, talks in TALKS.items():
            page = browser.new_page(locale=language, viewport={"width": 1200, "height": 840}, device_scale_factor=2)
            page.goto(address)
            talk(page, talks)
            take(page, f"screenshot-{language}.png")
            fill(page, BLANKS[language])
            take(page, f"screenshot-fill-{language}.png")


if __name__ == "__main__":
    main()
