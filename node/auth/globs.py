"""Patterns in which a "*" stands for anything, anywhere."""


def matches(glob: str, text: str) -> bool:
    """Whether the whole text fits. The first place that fits a part is the best, so there is no going back."""
    first, *middle = glob.split("*")
    if not middle:
        return text == glob
    last = middle.pop()
    if not text.startswith(first) or len(text) < len(first) + len(last) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
