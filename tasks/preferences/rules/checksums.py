"""Checksums of numbers that name a person, an account or a machine."""

import ipaddress
import re

IBAN_LENGTHS = dict(
    (item[:2], int(item[2:]))
    for item in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 "
        "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
        "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
        "SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
    ).split()
)


def only_digits(value: str) -> str:
    return re.sub(r"\D", "", value)


def is_card(number: str) -> bool:
    """Luhn (ISO/IEC 7812-1), the first digits of a network and its lengths."""
    prefix, length = number[:4], len(number)
    network = (
        (prefix[0] == "4" and length in (13, 16, 19))
        or ("51" <= prefix[:2] <= "55" and length == 16)
        or ("2221" <= prefix <= "2720" and length == 16)
        or (prefix[:2] in ("34", "37") and length == 15)
        or ((prefix == "6011" or prefix[:2] == "65" or "644" <= prefix[:3] <= "649") and length in (16, 19))
        or (prefix[:2] in ("36", "38", "30") and length == 14)
        or ("3528" <= prefix <= "3589" and length == 16)
    )  # fmt: skip
    return network and len(set(number)) > 1 and is_luhn(number)


def is_luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_iban(value: str) -> bool:
    """ISO 13616: the length of the country, and mod 97 = 1."""
    if len(value) != IBAN_LENGTHS.get(value[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97 == 1


def is_ip(value: str) -> bool:
    """An address of the world, or one kept for examples; loopback and home networks name nobody."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    if address.version == 6:
        return address in _GLOBAL_UNICAST  # `ab::c` is more often code than an address
    return address.is_global or any(address in network for network in _EXAMPLES)


_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_EXAMPLES = tuple(map(ipaddress.IPv4Network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))


def is_ssn(value: str) -> bool:
    """US social security number: area, group and serial as they are given out. SSA, "SSN randomization"."""
    area, group, serial = value.split("-")
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def is_cpf(value: str) -> bool:
    """Brazil: two check digits mod 11."""
    numbers = [int(c) for c in only_digits(value)]

    def check(size: int) -> int:
        return sum(n * (size + 1 - i) for i, n in enumerate(numbers[:size])) * 10 % 11 % 10

    return len(set(numbers)) > 1 and all(check(size) == numbers[size] for size in (9, 10))


def is_dni(value: str) -> bool:
    """Spain, DNI and NIE: the letter is the number mod 23."""
    compact = value.upper().replace("-", "")
    number = compact[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


def is_nir(value: str) -> bool:
    """France: the key is 97 - number mod 97."""
    number = only_digits(value)
    return 1 <= int(number[3:5]) <= 12 and 97 - int(number[:13]) % 97 == int(number[13:])


def is_china(value: str) -> bool:
    """China, GB 11643: mod 11-2 over 17 digits."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(c) * w for c, w in zip(value[:17], weights, strict=True))
    return "10X98765432"[total % 11] == value[17].upper()


def is_nino(value: str) -> bool:
    return value[:2].upper() not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")
