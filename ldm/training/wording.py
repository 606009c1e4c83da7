"""Captions in the words of a fine-tuning: what a picture's own caption says, and the word for what is new."""

import string
from dataclasses import dataclass

FIELDS = ("caption", "token", "subject")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A caption to another one, by a template.

    Attributes:
        template: with {caption}, the picture's own; {token}, the word for what is new; {subject}, what kind of thing
            is shown. Parts between commas that come out empty are left out with their comma.
        token: for {token}.
        subject: for {subject}.
    """

    template: str
    token: str = ""
    subject: str = ""

    def __post_init__(self) -> None:
        unknown = fields_of(self.template) - set(FIELDS)
        if unknown:
            raise ValueError(
                f"caption: {{{min(unknown)}}} is unknown; a template may have {{caption}}, {{token}}, {{subject}}"
            )

    def __call__(self, caption: str) -> str:
        text = self.template.format(caption=caption, token=self.token, subject=self.subject)
        parts = (" ".join(part.split()) for part in text.split(","))
        return ", ".join(part for part in parts if part)

    @property
    def reads_captions(self) -> bool:
        """Whether the pictures need captions of their own."""
        return "caption" in fields_of(self.template)


def fields_of(template: str) -> set[str]:
    """Names in braces.

    Raises:
        ValueError: a brace without its partner.
    """
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"caption: {template!r} is no template ({error})") from error
