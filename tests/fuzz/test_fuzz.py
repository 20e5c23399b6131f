"""The harnesses for a few seconds: the corpus, with what was once found, and some changes of it."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.every import HARNESSES
from tests.fuzz.harness import CORPUS
from tests.fuzz.mutation import mutated

_CHANGES = 60
_LARGEST_CORPUS = 200_000
_few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


class CorpusTests(SynchronousTestCase):
    def test_it_is_small_and_each_has_one(self) -> None:
        files = [path for path in CORPUS.rglob("*") if path.is_file()]
        self.assertLess(sum(path.stat().st_size for path in files), _LARGEST_CORPUS)
        self.assertEqual(set(HARNESSES), {path.parent.name for path in files})


class _Case(SynchronousTestCase):
    name: str

    def check(self, data: bytes) -> None:
        HARNESSES[self.name].run(data)


def _tests(name: str) -> type[SynchronousTestCase]:
    """The tests of one harness."""
    harness = HARNESSES[name]
    corpus = harness.seeds()

    class Tests(_Case):
        def test_the_corpus(self) -> None:
            for data in corpus:
                harness.measured(data)

        def test_changes_of_it(self) -> None:
            noise = Random(7)
            for _ in range(_CHANGES):
                data = mutated(corpus, harness.tokens, noise)
                try:
                    harness.run(data)
                except Exception as error:
                    error.add_note(f"python -m tests.fuzz {name} --input FILE, of {data!r}")
                    raise

        @given(st.binary(max_size=300))
        @_few
        def test_anything(self, data: bytes) -> None:
            self.check(data)

        @given(
            st.sampled_from(corpus),
            st.lists(st.sampled_from(harness.tokens), min_size=1),
            st.data(),
        )
        @_few
        def test_tokens_anywhere(
            self, data: bytes, tokens: list[bytes], more: st.DataObject
        ) -> None:
            for token in tokens:
                at = more.draw(st.integers(0, len(data)))
                data = data[:at] + token + data[at:]
            self.check(data[:20_000])

    Tests.name = name
    Tests.__name__ = Tests.__qualname__ = f"{name.title()}Tests"
    return Tests


for _name in HARNESSES:
    globals()[f"{_name.title()}Tests"] = _tests(_name)
del _name
