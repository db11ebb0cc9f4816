import itertools, random

N = [
    ("man", "Mann"),
    ("woman", "Frau"),
    ("dog", "Hund"),
    ("house", "Haus"),
    ("table", "Tisch"),
    ("child", "Kind"),
    ("book", "Buch"),
    ("tree", "Baum"),
]
V = [("sees", "sieht"), ("reads", "liest"), ("buys", "kauft"), ("takes", "nimmt")]
A = ["old", "red", "big", "small", "new", "blue"]


def pairs(split, count, seed=0):
    r = random.Random(f"{split}{seed}")
    seen = set()
    while len(seen) < count:
        a, b = r.choice(N), r.choice(N)
        v = r.choice(V)
        x, y = r.choice(A), r.choice(A)
        n = r.randint(1, 99)
        s = f"The {x} {a[0]} {v[0]} {n} {y} {b[0]}."
        if s in seen:
            continue
        seen.add(s)
        yield s, f"{x.upper()} {a[1]} {v[1]} {n} {b[1]} {y}."
