def values: select(. != null);
def nulls: select(. == null);
def booleans: select(type == "boolean");
def numbers: select(type == "number");
def strings: select(type == "string");
def arrays: select(type == "array");
def objects: select(type == "object");
def iterables: select(type | . == "array" or . == "object");
def scalars: select(type | . != "array" and . != "object");
def transpose: if . == [] then [] else . as $in | (map(length) | max) as $most | [range($most) as $j | [range($in | length) as $i | $in[$i][$j]]] end;
def finites: select(isinfinite or isnan | not);
def normals: select(isnormal);

def range($to): _range(0; $to; 1);
def range($from; $to): _range($from; $to; 1);
def range($from; $to; $step): _range($from; $to; $step);
def recurse: recurse(.[]?);
def recurse(f): def r: ., (f | r); r;
def recurse(f; cond): def r: ., (f | select(cond) | r); r;
def repeat(f): def r: ., (f | r); r;
def while(cond; update): def w: if cond then ., (update | w) else empty end; w;
def until(cond; update): def u: if cond then . else (update | u) end; u;

def first: .[0];
def last: .[-1];
def last(f): reduce f as $x (null; [$x]) | if . == null then empty else .[0] end;
def nth($n): .[$n];
def nth($n; f):
  if $n < 0 then error("nth doesn't support negative indices") else first(skip($n; f)) end;
def limit($n; f):
  if $n > 0 then label $out | foreach f as $item (0; . + 1; $item, if . >= $n then break $out else empty end)
  elif $n == 0 then empty
  else error("limit doesn't support negative count") end;
def skip($n; f):
  if $n > 0 then foreach f as $item ($n; . - 1; if . < 0 then $item else empty end)
  elif $n == 0 then f
  else error("skip doesn't support negative count") end;
def isempty(g): first((g | false), true);
def isvalid(f): try (f | true) catch false;
def any: any(.[]; .);
def any(f): any(.[]; f);
def any(g; cond): isempty(first(g | cond | select(.))) | not;
def all: all(.[]; .);
def all(f): all(.[]; f);
def all(g; cond): isempty(first(g | cond | select(. | not)));
def in(xs): . as $x | xs | has($x);
def inside(xs): . as $x | xs | contains($x);
def add: add(.[]);
def toarray: if type == "array" then . else [.] end;
def combinations: if length == 0 then [] else .[0][] as $x | (.[1:] | combinations) as $w | [$x] + $w end;
def combinations(n): . as $dot | [range(n)] | map($dot) | combinations;
def walk(f): def w: if type == "object" then map_values(w) elif type == "array" then map(w) else . end | f; w;
def paths: path(..) | select(length > 0);
def paths(f): path(.. | select(f)) | select(length > 0);
def leaf_paths: paths(scalars);
def pick(pathexps): . as $top | reduce path(pathexps) as $p (null; setpath($p; $top | getpath($p)));
def todate: strftime("%Y-%m-%dT%H:%M:%SZ");
def fromdateiso8601: strptime("%Y-%m-%dT%H:%M:%SZ") | mktime;
def todateiso8601: strftime("%Y-%m-%dT%H:%M:%SZ");
def fromdate: fromdateiso8601;
def date: todate;
def dateadd(u; n): . + n;
def datesub(u; n): . - n;
def ascii: [.] | implode;
def tostream: path(def r: (.[]? | r), .; r) as $p | getpath($p) | reduce path(.[]?) as $q ([$p, .]; [$p + $q]);
def fromstream(f):
  {x: null, e: false} as $init
  | foreach f as $i ($init;
      if .e then $init else . end
      | if $i | length == 2
        then setpath(["e"]; $i[0] | length == 0) | setpath(["x"] + $i[0]; $i[1])
        else setpath(["e"]; $i[0] | length == 1) end;
      if .e then .x else empty end);
def truncate_stream(stream): . as $n | null | stream | . as $input
  | if (.[0] | length) > $n then setpath([0]; .[0][$n:]) else empty end;
def match(re): match(re; null);
def match($re; $flags):
  ($re | type) as $t
  | if $t == "string" then _match($re; $flags; false)[]
    elif $t == "array" and ($re | length > 1) then _match($re[0]; $re[1]; false)[]
    elif $t == "array" and ($re | length > 0) then _match($re[0]; null; false)[]
    else error($t + " not a string or array") end;
def test(re): test(re; null);
def test($re; $flags):
  ($re | type) as $t
  | if $t == "string" then _match($re; $flags; true)
    elif $t == "array" and ($re | length > 1) then _match($re[0]; $re[1]; true)
    elif $t == "array" and ($re | length > 0) then _match($re[0]; null; true)
    else error($t + " not a string or array") end;
def capture(re): capture(re; null);
def capture(re; flags): match(re; flags) | _captures;
def scan($re): scan($re; null);
def scan($re; $flags):
  match($re; "g" + $flags) | if (.captures | length) > 0 then [.captures[].string] else .string end;
def split($re; flags): _pieces($re; flags + "g") | [.[:-1][][0], .[-1]];
def splits($re): splits($re; null);
def splits($re; flags): split($re; flags) | .[];
def sub($re; str): sub($re; str; "");
def sub($re; str; $flags): _pieces($re; $flags) as $p
  | [$p[:-1][] | [.[0], [.[1] | _captures | str]]] as $x
  | if all($x[]; .[1] | length == 1) then [($x[] | .[0], .[1][0]), $p[-1]] | _concat
    else def go: . as [$made, $n] | if $n == ($x | length) then $made + [$p[-1]] | _concat
           else $x[$n] as [$gap, $choices] | $choices[] | [$made + [$gap, .], $n + 1] | go end;
      [[], 0] | go end;
def gsub($re; str; $flags): sub($re; str; $flags + "g");
def gsub($re; str): sub($re; str; "g");
def INDEX(stream; idx): reduce stream as $row ({}; .[$row | idx | tostring] |= $row);
def INDEX(idx): INDEX(.[]; idx);
def IN(s): any(s == .; .);
def IN(src; s): any(src == s; .);
def JOIN($idx; idx_expr): [.[] | [., $idx[idx_expr]]];
def JOIN($idx; stream; idx_expr): stream | [., $idx[idx_expr]];
def JOIN($idx; stream; idx_expr; join_expr): stream | [., $idx[idx_expr]] | join_expr;
def have_decnum: false;
def have_literal_numbers: true;
