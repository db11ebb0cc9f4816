"""Documents: consecutive sentences as one training example (Tiedemann and Scherrer, 2017). Not in the paper.

In a corpus of documents, a pair that is blank on both sides is the boundary between two of them. Each sentence gives
one example, which has up to `data.context` - 1 sentences before it, but none of another document:

    document            examples with data.context = 3
    A B C D             A    A<sep>B    A<sep>B<sep>C    B<sep>C<sep>D

A translation sees exactly the same, whatever the place of the sentence in its document, and an epoch has as many
examples as there are sentences. The other way, examples that do not overlap, has fewer tokens in an epoch. But then
hardly any is as short as those at the beginning of a document, which a model must translate too.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from data.corpora.corpus import Log
from data.encoding import Counts
from data.text import BOUNDARY, Pair, is_blank, is_blank_line
from transformer.config import UserError, counted


def kept(pairs: Iterable[Pair], split: str, counts: Counts, context: int) -> Iterator[Pair]:
    """Counts pairs, and yields those with text on both sides; of documents (context > 1) also the boundaries.

    UserError for a pair of a document with one blank side: the boundaries of the two sides would not agree.
    """
    ended = True
    for pair in pairs:
        if pair is not BOUNDARY:
            counts.read += 1
            counts.blank += is_blank(pair)
        if not is_blank(pair):
            counts.documents += ended and context > 1
            ended = False
            yield pair
        elif context > 1:
            if not all(map(is_blank_line, pair)):
                blank, other = ("source", "target") if is_blank_line(pair[0]) else ("target", "source")
                raise UserError(
                    f"line {counts.read} of {split} is blank in the {blank} but not in the {other}: a blank line is "
                    f"the boundary between two documents (data.context = {context}), on both sides"
                )
            ended = True
            yield BOUNDARY


def examples(pairs: Iterable[Pair], context: int) -> Iterator[Pair]:
    """Yields one example for each sentence: its document's last `context` sentences up to it, a line each.

    With a context of 1, it is the sentence.
    """
    recent: deque[Pair] = deque(maxlen=context)
    for pair in pairs:
        if pair is BOUNDARY:
            recent.clear()
            continue
        recent.append(pair)
        source, target = zip(*recent, strict=True)
        yield "\n".join(source), "\n".join(target)


def warn_of_one_document(split: str, counts: Counts, log: Log) -> None:
    """Warns if a text has no boundary: then all of it is one document, which may be a mistake."""
    if counts.documents == 1:
        log(f"warning: {split} has no boundary: its {counted(counts.read, 'sentence')} are read as one document")
