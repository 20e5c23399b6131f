"""Relaxed JSON becomes strict JSON of the same shape."""

import json
import re
import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.wire.relaxed_json import strip

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(['//"', "/*", "*/", ",]", "\\", "${X}"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NOISE = [
    "",
    " ",
    "\n",
    "/* x */",
    "/** \"q' , ] } // **/",
    '// it\'s, "so" */\n',
    "/*\n,\r\n*/",
    "//\r\n",
]
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s",:\[\]{}]+|[,:\[\]{}]')


def shape(text: str) -> list[int]:
    """The length of each line."""
    return [len(line) for line in re.split("[\r\n]", text)]


class StripTests(SynchronousTestCase):
    def check(self, expected: object, text: str) -> None:
        stripped = strip(text)
        self.assertEqual(expected, json.loads(stripped))
        self.assertEqual(shape(text), shape(stripped))

    def test_strict_json_is_untouched(self) -> None:
        for text in ("", "{}", '{"a": [1, "x,]", "/* no */", "// no"], "b": "\\",]"}', "[1\n,\n2]"):
            self.assertEqual(text, strip(text))

    def test_comments(self) -> None:
        self.check([1, 2], "[1, // one, ]\n2 /* two\nlines */ ]// end")
        self.check({}, "/**/{/***/}/* a // b */")
        self.check([], "//\r[// x\r\n]")
        self.check(["http://x", "a /* b"], '["http://x", "a /* b" /* c " d */]')

    def test_a_comment_becomes_spaces(self) -> None:
        self.assertEqual("[1          , 2]", strip("[1 /* é\t\\ */, 2]"))
        self.assertEqual("[   \n    \r\n  ]", strip("[/* \n  /*\r\n*/]"))

    def test_trailing_commas(self) -> None:
        self.check([1], "[1,]")
        self.check({"a": [{}]}, '{"a": [{},\n] , // last\n /* really */ }')
        self.check([["a,]"]], '[["a,]",],]')

    def test_byte_order_mark(self) -> None:
        self.check({"a": "\ufeff"}, '\ufeff{"a": "\ufeff"}')

    def test_escapes_in_strings(self) -> None:
        self.check(['"//', "\\", "/*"], r'["\"//", "\\", "/*" /* , "x" */,]')

    def test_what_is_wrong_stays_wrong(self) -> None:
        for text in (
            "[,]",
            "{,}",
            "[1,,]",
            "[1,,2]",
            "[/* never",
            "[1] /*/",
            "[1 / 2]",
            '["a',
            '["a\\',
            "[1] /",
        ):
            self.assertEqual(text, strip(text))
            self.assertRaises(ValueError, json.loads, strip(text))

    def test_errors_keep_their_place(self) -> None:
        text = '{ // first\n  "a": 1, /* here */ "b" 2\n}'
        error = self.assertRaises(json.JSONDecodeError, json.loads, strip(text))
        self.assertEqual((2, 26), (error.lineno, error.colno))

    def test_linear_time(self) -> None:
        size = 200_000
        started = time.process_time()
        for hard in ("/*", "//", ",", "[", '"\\', "\\", " ,", "/* ", "*/", '"', "/*/", ", \n"):
            self.assertEqual(size * len(hard), len(strip(hard * size)))
            self.assertEqual(size * len(hard) + 1, len(strip("[" + hard * size)))
        strip("[1," + " " * size * 10)
        self.assertLess(time.process_time() - started, 20)

    @given(VALUES, st.data(), st.booleans())
    def test_comments_anywhere_between_tokens(
        self, value: object, data: st.DataObject, commas: bool
    ) -> None:
        noise = st.sampled_from(NOISE)
        pieces = []
        previous = ""
        for token in TOKEN.findall(json.dumps(value, indent=1)):
            if commas and token in "]}" and previous not in "[{":
                pieces += [",", data.draw(noise)]
            pieces += [token, data.draw(noise)]
            previous = token
        self.check(value, data.draw(noise) + "".join(pieces))

    @given(st.text(alphabet='/*"\\,]}[{ \r\na\ufeff'))
    def test_any_text_keeps_its_shape(self, text: str) -> None:
        self.assertEqual(shape(text), shape(strip(text)))
        self.assertEqual(strip(text), strip(strip(text)))
