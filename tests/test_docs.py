"""Every Python block of the README and of docs/ runs, in order, page by page.

The blocks of a page share one namespace and one event loop, and may ``await`` at the top level. The
URLs of a server at its usual port on localhost stand for the server of the tests. A block that
starts with ```` ```python skip ```` is only compiled.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if path.exists()]
BLOCK = re.compile(
    r"^([ ]*)```python(?P<info>[^\n]*)\n(?P<code>.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    code: str
    line: int
    runs: bool

    def compile(self, page: Path) -> CodeType:
        """Compile it so that errors name the page and its line."""
        padded = "\n" * (self.line - 1) + self.code
        code: CodeType = compile(padded, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return code


def blocks(text: str) -> Iterator[Block]:
    for match in BLOCK.finditer(text):
        info = match["info"].split()
        if unknown := set(info) - {"skip"}:
            raise ValueError(f"what does {unknown} after ```python mean?")
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(textwrap.dedent(match["code"]), line, runs="skip" not in info)


def run(page: Path, text: str, namespace: dict[str, object]) -> None:
    """Run the blocks of a page; those with an ``await`` in the page's event loop."""
    with asyncio.Runner() as runner:
        for block in blocks(text):
            code = block.compile(page)
            if block.runs:
                result = eval(code, namespace)
                if inspect.iscoroutine(result):
                    runner.run(result)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(
    page: Path,
    on_test_servers: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    run(page, on_test_servers(page.read_text()), vars(module))


# -- the runner itself ---------------------------------------------------------------------------

PAGE = """
```python
import asyncio
seen = ["a"]
```

* in a list:

  ```python
  await asyncio.sleep(0)
  seen.append("b")
  ```

```python skip
seen.append("c")
```

```text
seen.append(
```
"""


def test_blocks_share_a_namespace_and_may_await() -> None:
    namespace: dict[str, object] = {}
    run(Path("page.md"), PAGE, namespace)
    assert namespace["seen"] == ["a", "b"]


def test_a_failing_block_is_named_by_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run(Path("page.md"), "text\n\n```python\nx = 1\nx / 0\n```\n", {})
    last = caught.traceback[-1]
    assert (str(last.path).endswith("page.md"), last.lineno + 1) == (True, 5)


def test_a_skipped_block_is_compiled() -> None:
    with pytest.raises(SyntaxError):
        run(Path("page.md"), "```python skip\nx = = 1\n```\n", {})


def test_a_misspelt_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="skp"):
        run(Path("page.md"), "```python skp\nx = 1\n```\n", {})
