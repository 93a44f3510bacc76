"""Bodies after the categories of the known JSON parsing test suites, written for an event: y_, n_ and i_ cases.

`RIGHT` (y_): right JSON that the contract of an event takes; `WRONG` (n_): wrong JSON, refused by every strict parser; `DISPUTED` (i_): what
RFC 8259 leaves to the parser, or the contract refuses: our answer is pinned.
"""

from __future__ import annotations


def event(value: bytes) -> bytes:
    """An event with `value` as the value of `f`."""
    return b'{"event_name":"json","f":%s}' % value


def _events(**values: bytes) -> dict[str, bytes]:
    return {name: event(value) for name, value in values.items()}


RIGHT: dict[str, bytes] = {
    **_events(
        array_empty=b"[]", array_spaces=b"[ 1 ,\t2\n]", array_of_empty_strings=b'["",""]', array_false=b"[false]",
        object_empty=b"{}", object_one=b'{"a":"b"}', object_of_null=b'{"a":null}', object_of_arrays=b'{"a":[1],"b":[]}',
        number_zero=b"0", number_minus_zero=b"-0", number_minus_zero_float=b"-0.0", number_exp=b"1e1", number_exp_plus=b"1E+2",
        number_exp_minus=b"1e-2", number_exp_zero=b"0e1", number_exp_leading_zero=b"1e05", number_real=b"123.456789",
        number_tiny=b"5e-324", number_underflow=b"123e-10000000", number_close_to_zero=b"-0." + b"0" * 70 + b"1",
        number_largest_double=b"1.7976931348623157e308", number_u64=b"18446744073709551615", number_i64=b"-9223372036854775808",
        number_big_as_exponent=b"123123123123e10", number_many_digits=b"0." + b"1234567890" * 40,
        string_empty=b'""', string_escapes=rb'"\"\\\/\b\f\n\r\t"', string_nul=rb'"a\u0000b"', string_only_nul=rb'"\u0000"',
        string_pair=rb'"\ud83d\ude39\uD834\uDD1E"', string_u_upper=rb'"\uABCD\uabcd"', string_max_bmp=rb'"\uffff\ufffe\ufdd0"',
        string_raw_utf8='"€𝄞é"'.encode(), string_del=b'"\x7f"', string_bom_inside=b'"\xef\xbb\xbf"', string_separators="\"\u2028\u2029\"".encode(),
        string_noncharacters="\"\U0010ffff\U0001fffe\"".encode(), string_backslash_u=rb'"\\u0061"', string_comment=b'"a/*b*/c//d"',
        string_zero_width="\"a\u200b\u200d\u202e\u2066b\"".encode(), string_combining=("\"" + "e\u0301" * 50 + "\"").encode(),
        string_zalgo=("\"" + "a" + "\u0300" * 1000 + "\"").encode(), string_not_normal="\"\u00e9e\u0301\u212b\ufb01\"".encode(),
        string_sql=b"\"'; DROP TABLE events; -- {x:String} \\\\' \\u0027\"", string_html=rb'"<script>alert(1)</script>"',
        string_longest=b'"' + b"x" * 8192 + b'"', string_format=b'"%s %n {0} ${x} {{x}}"', string_date=b'"2024-01-01"', string_number=b'"1e5"',
        true=b"true", false=b"false", null=b"null",
    ),
    "spaces_around": b' \t\r\n{"event_name" \n:\t"json"\r, "f" : 1 } \n',
    "name_prototype": b'{"event_name":"json","__proto__":1,"constructor":{"prototype":2},"toString":3}',
    "name_like_operator": b'{"event_name":"json","$where":"1","$gt":1,"-":2,"0":3}',
    "name_like_another_case": b'{"event_name":"json","Event_Name":1,"EVENT_NAME":2,"F":3,"f":4}',
    "name_escaped": rb'{"event_name":"json","\u0066":1}',
    "event_name_escaped": rb'{"\u0065vent_name":"js\u006fn"}',
    "array_of_the_most": event(b"[" + b",".join([b"18446744073709551615"] * 1000) + b"]"),
}  # fmt: skip

WRONG: dict[str, bytes] = {
    **_events(
        array_trailing_comma=b"[1,]", array_leading_comma=b"[,1]", array_double_comma=b"[1,,2]", array_colon=b"[1:2]", array_unclosed=b"[1",
        array_star=b"[*]", array_no_comma=b"[1 2]", array_closed_twice=b"[1]]", object_trailing_comma=b'{"a":1,}', object_no_value=b'{"a":}',
        object_no_colon=b'{"a" 1}', object_key_no_string=b"{1:1}", object_key_null=b"{null:1}", object_single_quotes=b"{'a':1}", object_emoji="{🇨🇭}".encode(),
        object_comment=b'{"a":/*c*/1}', object_unquoted=b"{a:1}", object_double_colon=b'{"a"::1}', object_semicolon=b'{"a":1;"b":2}',
        number_leading_zero=b"012", number_minus=b"-", number_plus=b"+1", number_dot=b".1", number_dot_end=b"1.", number_exp_empty=b"1e", number_exp_sign=b"1e+",
        number_hex=b"0x1", number_infinity=b"Infinity", number_minus_infinity=b"-Infinity", number_nan=b"NaN", number_two_dots=b"1.2.3", number_underscore=b"1_000",
        number_minus_space=b"- 1", number_letter=b"1a", number_fullwidth="１".encode(), number_two_minus=b"--1", number_expression=b"1+1", number_00=b"00",
        string_unclosed=b'"a', string_single=b"'a'", string_raw_newline=b'"a\nb"', string_raw_tab=b'"\t"', string_raw_nul=b'"\x00"', string_raw_1f=b'"\x1f"',
        string_bad_escape=rb'"\x00"', string_escaped_nul_byte=b'"\\\x00"', string_short_u=rb'"\u00A"', string_u_no_hex=rb'"\u00zz"', string_backslash=b'"\\',
        string_capital_u=rb'"\U0041"', literal_true=b"tru", literal_capital=b"True", literal_none=b"None", literal_undefined=b"undefined", literal_extra=b"nullx",
        utf8_invalid=b'"\xff"', utf8_truncated=b'"\xe2\x82"', utf8_overlong_slash=b'"\xc0\xaf"', utf8_overlong_nul=b'"\xc0\x80"', utf8_overlong_3=b'"\xe0\x80\xaf"',
        utf8_overlong_max=b'"\xf8\x87\xbf\xbf\xbf"', utf8_surrogate=b'"\xed\xa0\x80"', utf8_surrogate_pair=b'"\xed\xa0\xbd\xed\xb8\xb9"', utf8_beyond=b'"\xf4\x90\x80\x80"',
        utf8_lone_continuation=b'"\x81"', latin1=b'"\xe9"', utf8_after_value=b"1\xe5",
    ),
    "empty": b"", "space": b" ", "lone_comma": b",", "lone_brace": b"{", "lone_bracket_end": b"]", "star": b"*", "nul": b"\x00", "angle": b"<.>",
    "garbage_after": event(b"1") + b"x", "brace_after": event(b"1") + b"}", "comment_after": event(b"1") + b"//", "two_documents": event(b"1") * 2,
    "nul_after": event(b"1") + b"\x00", "form_feed": b"\x0c" + event(b"1"), "vertical_tab": event(b"\x0b1"), "no_break_space": event(b"\xc2\xa01"),
    "bom": b"\xef\xbb\xbf" + event(b"1"), "half_bom": b"\xef\xbb" + event(b"1"), "bom_alone": b"\xef\xbb\xbf",
    "utf16le": event(b"1").decode().encode("utf-16-le"), "utf16be": event(b"1").decode().encode("utf-16-be"), "utf16bom": event(b"1").decode().encode("utf-16"),
    "utf32": event(b"1").decode().encode("utf-32"), "utf7": b"+AHsAIgBl-", "name_bad_utf8": b'{"event_name":"json","\xff":1}',
    "deep_arrays": b"[" * 60_000, "deep_objects": b'{"":' * 15_000, "deep_both": event(b'[{"":' * 10_000), "deep_closed": event(b"[" * 30_000 + b"]" * 30_000),
    "deep_value_closed": event(b'{"a":' * 5000 + b"1" + b"}" * 5000), "trailing_hash": event(b"1") + b"#", "msgpack": b"\x81\xa1a\x01", "gzip": b"\x1f\x8b\x08\x00",
    "form": b"event_name=json&f=1", "xml": b"<?xml version='1.0'?><event_name>json</event_name>",
}  # fmt: skip

DISPUTED: dict[str, bytes] = {
    **_events(
        surrogate_high=rb'"\ud800"', surrogate_low=rb'"\udfff"', surrogate_twice=rb'"\ud800\ud800"', surrogate_swapped=rb'"\ude39\ud83d"', surrogate_then_text=rb'"\ud800a"',
        surrogate_then_escape=rb'"\ud800\n"', surrogate_truncated=rb'"\ud83d\u"', surrogate_in_array=rb'["\udc00"]',
        number_huge_exponent=b"1e400", number_negative_huge=b"-1e400", number_exponent_itself_huge=b"1e" + b"9" * 1000, number_u64_and_one=b"18446744073709551616",
        number_i64_and_one=b"-9223372036854775809", number_bigint=b"9" * 4300, number_bigger_int=b"9" * 50_000, number_bigint_negative=b"-" + b"9" * 400,
        repeated_child=b'{"a":1,"a":2}', repeated_child_escaped=rb'{"a":1,"\u0061":1}', array_mixed=b'[1,"a"]', array_of_nulls=b"[null]", array_of_arrays=b"[[1]]",
        array_of_objects=b'[{"a":1}]', object_too_deep=b'{"a":{"b":1}}', string_too_long=b'"' + b"x" * 8193 + b'"', array_too_long=b"[" + b"0," * 1000 + b"0]",
        child_with_nul=rb'{"a\u0000":1}', child_empty=b'{"":1}',
    ),
    "repeated_name": b'{"event_name":"json","f":1,"f":1}', "repeated_event_name": b'{"event_name":"json","event_name":"json"}',
    "repeated_escaped": rb'{"event_name":"json","\u0065vent_name":"other"}', "name_empty": b'{"event_name":"json","":1}', "name_nul": rb'{"event_name":"json","\u0000":1}',
    "name_dotted": b'{"event_name":"json","a.b":1}', "name_unicode": '{"event_name":"json","é":1}'.encode(), "name_surrogate": rb'{"event_name":"json","\ud800":1}',
    "name_homoglyph": '{"еvent_name":"json"}'.encode(), "name_long": b'{"event_name":"json","' + b"x" * 129 + b'":1}', "names_many": b'{"event_name":"json"' + b"".join(b',"%d":1' % n for n in range(5000)) + b"}",
    "event_name_nul": rb'{"event_name":"json\u0000"}', "event_name_newline": rb'{"event_name":"json\n"}', "event_name_fullwidth": '{"event_name":"ｊson"}'.encode(),
    "scalar_string": b'"json"', "scalar_number": b"1", "scalar_null": b"null", "scalar_true": b"true", "array_top": b'[{"event_name":"json"}]', "reserved": b'{"event_name":"json","project_id":"x"}',
}  # fmt: skip
