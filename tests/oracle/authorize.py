#!/usr/bin/env python3
"""A second evaluator of authorization policies, written from the specification's text alone.

In: one JSON object a line, {"policies", "broken", "workload", "connection"}.
Out: one JSON object a line, {"verdict", "dry_run"}: what happens, and what would happen if
dry-run policies were enforced as well. Verdicts are "allow", "deny" and "hold".

It shares no structure with the Rust evaluator on purpose: it compiles nothing, keeps no order,
and turns addresses into plain numbers. `--mutant NAME` breaks one sentence of the specification,
so that a test can show that a difference would be seen.

The sentences:
  S1  A policy applies to a workload when it is global, or of the workload's namespace with
      namespace scope, or named by the workload.
  S2  Any DENY that matches: deny.
  S3  A policy that applies but cannot be understood: deny.
  S4  A policy that the workload names but that is not there: hold.
  S5  No ALLOW policy applies: allow. Otherwise one of them must match.
  S6  A policy matches when any rule does; without rules it never matches.
  S7  A rule matches when all of its clauses do; without clauses it always matches.
  S8  A clause matches when any of its matches does; without any it never matches.
  S9  A match holds when all of its non-empty fields do; without any it never holds.
  S10 A field holds when any of its values does; a not-field when none does.
  S11 A peer without identity has no namespace, principal or service account: no value of
      these fields is ever true of it.
  S12 Text is compared literally: whole, start, end, or "is there at all".
  S13 Principals are compared without "spiffe://", on both sides.
  S14 An IPv4 address and its v4-mapped IPv6 form are one address; so are such blocks
      (mapped, at least 96 bits long). Otherwise a block only holds addresses of its own family.
  S15 Dry-run policies enforce nothing.
"""

import functools
import json
import re
import socket
import sys

MAPPED = b"\0" * 10 + b"\xff\xff"


@functools.lru_cache(maxsize=None)
def number(text):
    """An address as (bits, number), the mapped form as IPv4 (S14)."""
    if ":" in text:
        raw = socket.inet_pton(socket.AF_INET6, text)
        if raw.startswith(MAPPED) and MUTANT != "mapped-is-v6":
            raw = raw[12:]
    else:
        raw = socket.inet_pton(socket.AF_INET, text)
    return len(raw) * 8, int.from_bytes(raw, "big")


@functools.lru_cache(maxsize=None)
def block(text):
    """A block as (bits, prefix length, network number)."""
    address, length = text.split("/")
    length = int(length)
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    if len(raw) == 16 and raw.startswith(MAPPED) and length >= 96:
        raw, length = raw[12:], length - 96
    bits = len(raw) * 8
    return bits, length, int.from_bytes(raw, "big") >> (bits - length)


def inside(address, blocks):
    bits, value = number(address)
    for candidate in blocks:
        width, length, network = block(candidate)
        if MUTANT == "short-prefix" and length > 0:
            length, network = length - 1, network >> 1
        if width == bits and value >> (bits - length) == network:
            return True
    return False


def text_is(kind, pattern, value):
    if value is None:
        return MUTANT == "plaintext-is-present" and kind == "presence"
    if kind == "exact":
        if MUTANT == "dot-is-wildcard":
            return re.fullmatch(pattern.replace("-", r"\-"), value) is not None
        return value == pattern
    if kind == "prefix":
        return value[: len(pattern)] == pattern
    if kind == "suffix":
        if MUTANT == "suffix-is-substring":
            return pattern in value
        return pattern == "" or value[-len(pattern):] == pattern
    assert kind == "presence", kind
    return value != ""


def any_text(patterns, value, strip=False):
    for one in patterns:
        (kind, pattern), = one.items()
        if strip and kind in ("exact", "prefix") and pattern.startswith("spiffe://"):
            pattern = pattern[len("spiffe://"):]
        if text_is(kind, pattern, value):
            return True
    return False


def any_account(accounts, peer):
    return any(
        peer is not None
        and one["namespace"] == peer["namespace"]
        and one["service_account"] == peer["service_account"]
        for one in accounts
    )


def identity(text):
    if text is None:
        return None
    match = re.fullmatch(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)", text)
    domain, namespace, account = match.groups()
    return {
        "principal": f"{domain}/ns/{namespace}/sa/{account}",
        "namespace": namespace,
        "service_account": account,
    }


def match_holds(match, connection):
    peer = connection["peer"]
    principal = peer and peer["principal"]
    namespace = peer and peer["namespace"]
    source, destination = connection["source_ip"], connection["destination_ip"]
    port = connection["destination_port"]
    # Field name -> whether any of the listed values is true of the connection.
    found = {
        "namespaces": lambda values: any_text(values, namespace),
        "principals": lambda values: any_text(values, principal, strip=True),
        "service_accounts": lambda values: any_account(values, peer),
        "source_ips": lambda values: inside(source, values),
        "destination_ips": lambda values: inside(destination, values),
        "destination_ports": lambda values: port in values,
    }
    asked = False
    for field, any_of in found.items():
        wanted, unwanted = match.get(field, []), match.get("not_" + field, [])
        if wanted:
            asked = True
            if not any_of(wanted):
                return False
        if unwanted:
            asked = True
            if MUTANT == "plaintext-fails-not" and peer is None and field == "principals":
                return False
            if any_of(unwanted):
                return False
    return asked or MUTANT == "empty-match-holds"


def policy_matches(policy, connection):
    return any(
        all(
            any(match_holds(match, connection) for match in clause["matches"])
            for clause in rule["clauses"]
        )
        for rule in policy["rules"]
    )


def full_name(policy):
    return policy["namespace"] + "/" + policy["name"]


def applies(policy, workload):
    if full_name(policy) in workload["policies"]:
        return True
    if policy["scope"] == "global":
        return True
    return policy["scope"] == "namespace" and policy["namespace"] == workload["namespace"]


def judge(policies, broken, missing, connection):
    denies = [one for one in policies if one["action"] == "deny"]
    allows = [one for one in policies if one["action"] == "allow"]
    if any(policy_matches(one, connection) for one in denies):
        return "deny"
    if broken and MUTANT != "broken-is-ignored":
        return "deny"
    if missing and MUTANT != "missing-is-ignored":
        return "hold"
    if not allows and MUTANT != "no-allow-denies":
        return "allow"
    return "allow" if any(policy_matches(one, connection) for one in allows) else "deny"


def answer(question):
    workload = question["workload"]
    connection = dict(question["connection"])
    connection["peer"] = identity(connection["source_identity"])
    mine = [one for one in question["policies"] if applies(one, workload)]
    broken = [one for one in question["broken"] if applies(one, workload)]
    present = {full_name(one) for one in question["policies"] + question["broken"]}
    missing = [name for name in workload["policies"] if name not in present]
    enforced = [one for one in mine if not one["dry_run"]]
    return {
        "verdict": judge(enforced, broken, missing, connection),
        "dry_run": judge(mine, broken, missing, connection),
    }


def main():
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        # The asker may wait for this answer before it asks again.
        sys.stdout.flush()


MUTANT = sys.argv[2] if sys.argv[1:2] == ["--mutant"] else None

if __name__ == "__main__":
    main()
