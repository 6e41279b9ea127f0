"""Numbers as a person reads them: three or four digits and a unit.

Prefixes are decimal (1 MB is 10^6 bytes), in bytes as in counts.
"""

import math

MISSING = "\N{EN DASH}"
"""What stands where a number is absent."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_count(value: float | int) -> str:
    """Format a count: 14_912_345 -> '14.9 M', 4096 -> '4,096'."""
    if not math.isfinite(value):
        return format_number(value)
    if abs(value) < 1e4:
        return f"{value:,.0f}"
    return _scaled(value)


def format_bytes(value: float | int) -> str:
    """Format a number of bytes: 59_649_380 -> '59.6 MB', 512 -> '512 B'."""
    if not math.isfinite(value):
        return format_number(value)
    if abs(value) < 1e3:
        return f"{value:.0f} B"
    return _scaled(value) + "B"


def format_flops(value: float | int) -> str:
    """Format a number of floating-point operations: 1.2e9 -> '1.20 GFLOP'."""
    if abs(value) < 1e3 or not math.isfinite(value):
        return f"{format_number(value)} FLOP"
    return _scaled(value) + "FLOP"


def format_seconds(value: float | int) -> str:
    """Format a duration: 4.25 -> '4.2 s', 272 -> '4 min 32 s', 7500 -> '2 h 5 min'."""
    if not math.isfinite(value) or value < 0:
        return format_number(value)
    if value < 9.95:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(value / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(value / 3600)
    return f"{hours // 24} d {hours % 24} h"


def format_number(value: float | int) -> str:
    """Format any number to four significant digits: 0.00099 -> '0.00099'."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3e}"
    if float(value).is_integer():
        return f"{value:,.0f}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_loss(value: float | int) -> str:
    """Format nats, bits or a ratio, which line up: 2.1 -> '2.100'."""
    return f"{value:.3f}" if math.isfinite(value) else format_number(value)


def format_perplexity(value: float | int) -> str:
    """Format a perplexity: 3.14159 -> '3.14', 512.3 -> '512.3', 51230 -> '51.2 k'."""
    if not math.isfinite(value) or abs(value) >= 1e4:
        return format_count(value)
    return f"{value:.2f}" if value < 100 else f"{value:,.1f}"


def _scaled(value: float | int) -> str:
    """Three significant digits, a space and a prefix."""
    for size, prefix in _PREFIXES:
        # 999.6 k would print as 1000 k: it belongs to the next prefix.
        if abs(value) >= size * 0.9995:
            scaled = value / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:,.{digits}f} {prefix}"
    return f"{value:.0f} "
