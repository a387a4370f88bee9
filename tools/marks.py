"""Pages with parts that scripts write."""


def replaced(page: str, text: str, name: str) -> str:
    """Return the page with the part between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` replaced.

    Raises
    ------
    ValueError
        If the page does not have both marks, once each.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page needs one {begin} and one {end}")
    before, _, after = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{after.partition(end)[2]}"
