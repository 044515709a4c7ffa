"""What loops an optimised HLO module has, and which products are in them."""

import re
from functools import partial


def loops_of(module: str) -> list[str]:
    """The instructions that are loops."""
    return [line.strip() for line in module.splitlines() if " while(" in line]


def products_in_loops(module: str) -> list[str]:
    """Convolutions and matrix products that a loop or a branch leads to."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in module.splitlines():
        if start := re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line):
            lines = bodies[start[1]] = []
        lines.append(line.strip())

    called = partial(re.findall, r"%([\w.-]+)")
    loop = re.compile(r"(?:body|condition|_computations?)=(\{.*?\}|%[\w.-]+)")
    call = re.compile(r"(?:calls|to_apply|body|_computations?)=(\{.*?\}|%[\w.-]+)")
    whole = [line for body in bodies.values() for line in body]
    ahead = [n for line in whole for names in loop.findall(line) for n in called(names)]
    seen: set[str] = set()
    while ahead:
        if (name := ahead.pop()) not in seen:
            seen.add(name)
            for line in bodies[name]:
                ahead += [n for names in call.findall(line) for n in called(names)]
    return [line for name in sorted(seen) for line in bodies[name] if is_product(line)]


def is_product(line: str) -> bool:
    """Whether an instruction is a convolution or a matrix product, or a library's."""
    product = r" (convolution|dot)\(|custom-call\(.*(?i:conv|dot|gemm|matmul)"
    return re.search(product, line) is not None
