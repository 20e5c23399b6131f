"""What is kept instead of a password, and how it is compared."""

import hashlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers import passwords

SALT = b"0123456789abcdef"


def cheap_hash(password: str) -> str:
    """As ``txtransfers password`` prints it, but for fewer rounds; made by hand."""
    found = hashlib.scrypt(password.encode(), salt=SALT, n=16, r=8, p=1, dklen=32)
    salt, hash_ = (b64encode(each).decode().rstrip("=") for each in (SALT, found))
    return f"$scrypt$ln=4,r=8,p=1${salt}${hash_}"


class PasswordTests(SynchronousTestCase):
    def test_what_is_made_is_right(self) -> None:
        kept = passwords.hash_password("a pass:wörd")
        self.assertTrue(kept.startswith("$scrypt$ln=15,r=8,p=1$"))
        self.assertNotEqual(kept, passwords.hash_password("a pass:wörd"))
        self.assertEqual("", passwords.problem_of_hash(kept))
        self.assertTrue(passwords.is_right("a pass:wörd".encode(), kept))
        self.assertFalse(passwords.is_right(b"a pass:word", kept))

    def test_what_others_made_is_right(self) -> None:
        kept = cheap_hash("hunter2")
        self.assertEqual("", passwords.problem_of_hash(kept))
        self.assertTrue(passwords.is_right(b"hunter2", kept))
        for wrong in (b"", b"hunter", b"hunter22", b"\xff", kept.encode()):
            self.assertFalse(passwords.is_right(wrong, kept))

    def test_plain_ones(self) -> None:
        self.assertTrue(passwords.is_right(b"", ""))
        self.assertTrue(passwords.is_right("é".encode(), "é"))
        for wrong in (b"", b"\xe9", b"e", "é ".encode()):
            self.assertFalse(passwords.is_right(wrong, "é"))

    @given(st.text(alphabet="$=,scryptlnp0123456789AZ+/-", max_size=60))
    def test_whatever_stands_there(self, text: str) -> None:
        self.assertIsInstance(passwords.problem_of_hash(f"$scrypt${text}"), str)

    def test_tokens(self) -> None:
        token, kept = passwords.make_token()
        self.assertNotIn(token, kept)
        for each in (token, kept):
            self.assertEqual("", passwords.problem_of_token(each))
            self.assertTrue(passwords.is_right_token(token.encode(), each))
            self.assertFalse(passwords.is_right_token(token[:-1].encode(), each))
            self.assertFalse(passwords.is_right_token(kept.encode(), each), "a hash is no token")
