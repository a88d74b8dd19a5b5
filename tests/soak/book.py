"""What the soak prints: steps with what they cost, claims that hold or don't."""

from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass
class Book:
    """Prints as it goes; `broken` holds the claims that did not hold."""

    broken: list[str] = field(default_factory=list)

    def title(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def line(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def step(self, name: str, *, seconds: float, size: int, pss: int, workers: int, disk: int) -> None:
        """A push or clone of `size` bytes; `pss` and `disk` are peaks in bytes."""
        self.line(
            f"{name:8}{seconds:9.1f} s {size / MIB / seconds:9.1f} MiB/s   workers {workers}, "
            f"together at most {pss / MIB:.0f} MiB (PSS)   disk at most +{disk / MIB:.0f} MiB"
        )

    def claim(self, what: str, holds: bool, found: str = "") -> None:
        """Something that has to be true."""
        self.line(f"{'ok' if holds else 'BROKEN':8}{what}{f': {found}' if found else ''}")
        if not holds:
            self.broken.append(f"{what}: {found}")
