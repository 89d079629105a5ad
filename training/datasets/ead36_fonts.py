"""The fonts of EAD-36: npm packages of ``@fontsource`` with an open licence each, families disjoint between the splits.

Used only to *build* the set; nothing of a font is shipped but pictures of its glyphs.
"""

import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

from taaf.models.errors import DataError

# What a licence file has to say, by the licence's SPDX name. Both let pictures of the glyphs be used for anything.
LICENCES = {"OFL-1.1": r"SIL Open Font License,? Version 1\.1", "Apache-2.0": r"Apache License\s+Version 2\.0"}
_APACHE = ("luckiest-guy", "permanent-marker", "rock-salt", "schoolbell", "special-elite")
_VERSIONS = {"source-sans-3": "5.3.1"}
FAMILIES = {
    "train": (
        "open-sans", "roboto", "lato", "montserrat", "poppins", "oswald", "nunito", "exo-2", "merriweather",
        "playfair-display", "lora", "eb-garamond", "zilla-slab", "bitter", "arvo", "alegreya", "ibm-plex-mono", "space-mono",
        "courier-prime", "caveat", "patrick-hand", "indie-flower", "kalam", "shadows-into-light", "permanent-marker",
        "architects-daughter", "gochi-hand", "rock-salt", "courgette", "lobster", "bangers", "orbitron", "press-start-2p",
        "special-elite", "righteous", "alfa-slab-one", "luckiest-guy", "comfortaa",
    ),
    "validation": (
        "source-sans-3", "libre-baskerville", "fira-mono", "schoolbell", "handlee", "fredoka", "cinzel", "titan-one",
    ),
    "test": (
        "inter", "quicksand", "rajdhani", "crimson-text", "rokkitt", "vollkorn", "inconsolata", "gloria-hallelujah",
        "reenie-beanie", "covered-by-your-grace", "short-stack", "audiowide", "pacifico", "bree-serif", "medievalsharp",
        "russo-one", "sriracha",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Font:
    """One npm package: ``@fontsource/name@version`` under ``licence`` (SPDX)."""

    name: str
    version: str
    licence: str

    @property
    def package(self) -> str:
        """What npm calls it."""
        return f"@fontsource/{self.name}@{self.version}"

    def files(self, folder: Path) -> list[Path]:
        """Its regular and bold files (WOFF, Latin), fetched into ``folder`` with ``npm pack`` if they are not there.

        Raises
        ------
        DataError
            If npm cannot fetch it, its licence is not the one listed here, or a file lacks a character.
        """
        archive = folder / f"fontsource-{self.name}-{self.version}.tgz"
        if not archive.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                subprocess.run(["npm", "pack", "--silent", self.package], cwd=folder, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise DataError(
                    f"npm pack {self.package}: failed ({error}); install npm, or put the file in {folder}"
                ) from error
        place = folder / self.name
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                name = member.name.removeprefix("package/")
                wanted = name in ("package.json", "LICENSE") or re.fullmatch(r"files/[\w-]+-latin-(400|700)-normal\.woff", name)
                if wanted and (content := tar.extractfile(member)) is not None:
                    path = place / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
        self._require_licence(place)
        found = sorted((place / "files").glob("*.woff"))
        if not found:
            raise DataError(f"{archive}: no Latin font file of weight 400 or 700; leave the family out")
        for path in found:
            require_characters(path)
        return found

    def _require_licence(self, place: Path) -> None:
        named = json.loads((place / "package.json").read_text())["license"]
        text = (place / "LICENSE").read_text()
        if named != self.licence or not re.search(LICENCES[self.licence], text):
            raise DataError(f"{place}: licence is {named!r}, listed is {self.licence}; read {place / 'LICENSE'}")


def fonts_of(split: str) -> list[Font]:
    """The fonts of a split, in order; their place in the list of all splits' fonts is their number in the file."""
    return [
        Font(name, _VERSIONS.get(name, "5.3.0"), "Apache-2.0" if name in _APACHE else "OFL-1.1") for name in FAMILIES[split]
    ]


def require_characters(path: Path) -> None:
    """Raise `DataError` if the font at ``path`` has no picture of its own for one of 0-9, A-Z."""
    from taaf.training.datasets.ead36 import LABELS

    font = ImageFont.truetype(str(path), 40)
    missing = bytes(font.getmask("\ufffe"))
    pictures = {c: bytes(font.getmask(c)) for c in LABELS}
    if bad := [c for c, mask in pictures.items() if mask == missing or not any(mask)]:
        raise DataError(f"{path}: the font has no {', '.join(bad)}; leave the family out")
