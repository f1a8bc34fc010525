"""The page in Chromium: nothing from outside, nothing on the console, nothing beside the window, and inert names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asyncsink.model import Failure
from asyncsink.report.page.rendering import as_html
from asyncsink.report.page.timeline import Moment, Timeline
from tests.report.test_page import HOSTILE, content, receipt
from tests.support.chromium import Tab, chromium, executable

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not executable(), reason="no Chromium here: `make chromium` installs Debian's, as root"),
]
ROWS = "document.querySelectorAll('#files tbody tr').length"
FIND = "document.getElementById('find')"
TEXT = "document.querySelector('#files tbody').innerText"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One browser for all tests of the module."""
    return "asyncio"


@pytest.fixture(scope="module")
async def tab(anyio_backend: str) -> AsyncIterator[Tab]:
    async with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything: hostile names, long names, many rows, failures, faults over time."""
    timeline = Timeline()
    for beat in range(1, 300):
        timeline.add(beat / 10, Moment(bytes_moved=beat * 99_999, objects_done=beat * 3, in_flight=beat % 64, limit=64))
    failures = [Failure(f"/d/{name}", "", "", "AccessDenied", f"no {name}", "upload", 1) for name in HOSTILE]
    long = [receipt(f"{'deep/' * 60}{'x' * 200}.nii.gz", 9 << 30, 4000.0)]
    many = [receipt(f"sub-{number % 40:02}/file-{number}.json", number) for number in range(900)]
    said = content([*long, *map(receipt, HOSTILE), *many, *failures], timeline, notices=HOSTILE, interrupted=True)
    place = tmp_path_factory.mktemp("page") / "page.html"
    place.write_bytes(as_html(said))
    return place


async def search(tab: Tab, words: str) -> int:
    """The number of rows that are found."""
    await tab.value(f"{FIND}.value = {words!r}; {FIND}.dispatchEvent(new Event('input'))")
    await tab.value("new Promise(done => setTimeout(done, 150))")
    rows: int = await tab.value(ROWS)
    return rows


@pytest.mark.parametrize("width", [1200, 390])
async def test_it_asks_for_nothing_and_stays_inside_its_window(tab: Tab, page: Path, width: int) -> None:
    await tab.open(page, width=width, height=800)
    assert await tab.value("document.documentElement.scrollWidth") <= width
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.messages == []
    assert await tab.value("document.querySelectorAll('img, iframe, link[rel=stylesheet], script[src]').length") == 0
    assert await tab.value("document.title") == "interrupted · s3://b/p · asyncsink"


async def test_a_script_in_the_page_that_is_not_its_own_does_not_run(tab: Tab, page: Path, tmp_path: Path) -> None:
    harmed = tmp_path / "harmed.html"
    harmed.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'owned'</script>", 1))
    await tab.open(harmed, width=800, height=600)
    assert await tab.value("document.title") != "owned"


async def test_the_table_is_searched_and_extended(tab: Tab, page: Path) -> None:
    await tab.open(page, width=1200, height=800)
    assert await tab.value(ROWS) == 100
    await tab.value("more.click()")
    assert await tab.value(ROWS) == 200
    assert await search(tab, "sub-07 file-7.json") == 1
    assert await search(tab, "failed") == len(HOSTILE)
    assert await search(tab, "nothing has this name") == 0
    assert await tab.value("found.textContent") == "0 files"
    assert await search(tab, "<script>") == 2
    assert "<script>alert(1)</script>.txt" in await tab.value(TEXT)
    assert await search(tab, "gnp") == 2
    assert "a\\u202egnp.exe" in await tab.value(TEXT)
    assert await search(tab, "break") == 2
    assert "line\\nbreak\\x1b[31m.txt" in await tab.value(TEXT)
    assert tab.messages == []


async def test_a_pointer_reads_the_chart(tab: Tab, page: Path) -> None:
    await tab.open(page, width=1200, height=800)
    await tab.value("document.querySelector('.chart').scrollIntoView()")
    box = "document.querySelector('.chart').getBoundingClientRect()"
    place = await tab.value(f"(({{left, top, width}}) => [left + width / 2, top + 20])({box})")
    await tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    assert "files/s" in await tab.value("document.querySelector('.reading').textContent")


async def test_without_scripts_the_first_files_are_there(tab: Tab, page: Path) -> None:
    await tab.open(page, width=390, height=800, script=False)
    root = (await tab.send("DOM.getDocument", depth=0))["root"]["nodeId"]
    rows = await tab.send("DOM.querySelectorAll", nodeId=root, selector="#files tbody tr")
    assert len(rows["nodeIds"]) == 100
    found = await tab.send("DOM.querySelector", nodeId=root, selector="noscript")
    assert found["nodeId"]


async def test_dark_and_light_differ_and_paper_gets_a_document(tab: Tab, page: Path) -> None:
    colors = set()
    for dark in (False, True):
        await tab.open(page, width=390, height=800, dark=dark)
        style = "getComputedStyle(document.body)"
        colors.add((await tab.value(f"{style}.backgroundColor"), await tab.value(f"{style}.color")))
    assert len({each[0] for each in colors}) == len({each[1] for each in colors}) == 2
    assert (await tab.printed()).startswith(b"%PDF-")
