//! Numbers. The functions come from one library on every machine, so that they give the same bits everywhere.

use super::super::value::Val;
use super::super::value::{Kind, number_pair};
use super::{Args, Host, Row, Run, refuse};

macro_rules! one {
    ($name:literal, $function:expr) => {
        ($name, 0, |_: &mut Host, dot, _| unary(&dot, $function))
    };
}

macro_rules! two {
    ($name:literal, $function:expr) => {
        ($name, 2, |_: &mut Host, _, args| binary(args, $function))
    };
}

pub(super) const TABLE: &[Row] = &[
    one!("floor", libm::floor),
    one!("ceil", libm::ceil),
    one!("round", libm::round),
    one!("trunc", libm::trunc),
    one!("rint", libm::rint),
    one!("nearbyint", libm::rint),
    one!("sqrt", libm::sqrt),
    one!("cbrt", libm::cbrt),
    one!("fabs", libm::fabs),
    one!("exp", libm::exp),
    one!("exp2", libm::exp2),
    one!("exp10", libm::exp10),
    one!("pow10", libm::exp10),
    one!("expm1", libm::expm1),
    one!("log", libm::log),
    one!("log2", libm::log2),
    one!("log10", libm::log10),
    one!("log1p", libm::log1p),
    one!("sin", libm::sin),
    one!("cos", libm::cos),
    one!("tan", libm::tan),
    one!("asin", libm::asin),
    one!("acos", libm::acos),
    one!("atan", libm::atan),
    one!("sinh", libm::sinh),
    one!("cosh", libm::cosh),
    one!("tanh", libm::tanh),
    one!("asinh", libm::asinh),
    one!("acosh", libm::acosh),
    one!("atanh", libm::atanh),
    one!("gamma", libm::lgamma),
    one!("lgamma", libm::lgamma),
    one!("lgamma_r", libm::lgamma),
    one!("tgamma", libm::tgamma),
    one!("j0", libm::j0),
    one!("j1", libm::j1),
    one!("y0", libm::y0),
    one!("y1", libm::y1),
    one!("significand", |value| if value == 0.0 || !value.is_finite() { value } else { libm::frexp(value).0 * 2.0 }),
    one!("logb", |value| match value {
        0.0 => f64::NEG_INFINITY,
        value if !value.is_finite() => value.abs(),
        value => f64::from(libm::frexp(value).1 - 1),
    }),
    two!("pow", libm::pow),
    two!("atan2", libm::atan2),
    two!("fmod", libm::fmod),
    two!("fmin", libm::fmin),
    two!("fmax", libm::fmax),
    two!("fdim", libm::fdim),
    two!("hypot", libm::hypot),
    two!("copysign", libm::copysign),
    two!("drem", libm::remainder),
    two!("nextafter", libm::nextafter),
    two!("nexttoward", libm::nextafter),
    two!("ldexp", |value, by| libm::ldexp(value, by.clamp(-9999.0, 9999.0) as i32)),
    two!("scalb", |value, by| libm::ldexp(value, by.clamp(-9999.0, 9999.0) as i32)),
    two!("scalbln", |value, by| libm::ldexp(value, by.clamp(-9999.0, 9999.0) as i32)),
    ("fma", 3, |_, _, [a, b, c]| match (a.as_f64(), b.as_f64(), c.as_f64()) {
        (Some(a), Some(b), Some(c)) => Ok(Val::number(libm::fma(a, b, c))),
        (None, ..) => refuse(&a, "number required"),
        (_, None, _) => refuse(&b, "number required"),
        _ => refuse(&c, "number required"),
    }),
    ("frexp", 0, |host, dot, _| match dot.as_f64() {
        Some(value) => {
            let (fraction, exponent) = libm::frexp(value);
            number_pair(fraction, f64::from(exponent), &mut host.tank)
        }
        None => refuse(&dot, "number required"),
    }),
    ("modf", 0, |host, dot, _| match dot.as_f64() {
        Some(value) => {
            let (fraction, whole) = libm::modf(value);
            number_pair(fraction, whole, &mut host.tank)
        }
        None => refuse(&dot, "number required"),
    }),
    ("abs", 0, |_, dot, _| match &dot {
        Val::Int(value) if *value < 0 => Ok(value.checked_neg().map_or(Val::Num(-(*value as f64)), Val::Int)),
        Val::Num(value) => Ok(Val::number(value.abs())),
        _ => Ok(dot),
    }),
    ("infinite", 0, |_, _, _| Ok(Val::Num(f64::INFINITY))),
    ("nan", 0, |_, _, _| Ok(Val::Num(f64::NAN))),
    ("isinfinite", 0, |_, dot, _| check(&dot, f64::is_infinite)),
    ("isnan", 0, |_, dot, _| check(&dot, f64::is_nan)),
    ("isnormal", 0, |_, dot, _| check(&dot, f64::is_normal)),
];

fn unary<'a>(value: &Val<'a>, function: fn(f64) -> f64) -> Run<'a, Val<'a>> {
    match value.as_f64() {
        Some(number) => Ok(Val::number(function(number))),
        None => refuse(value, "number required"),
    }
}

fn binary<'a>([a, b, _]: Args<'a>, function: fn(f64, f64) -> f64) -> Run<'a, Val<'a>> {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => Ok(Val::number(function(a, b))),
        (None, _) => refuse(&a, "number required"),
        _ => refuse(&b, "number required"),
    }
}

fn check<'a>(value: &Val<'a>, is: fn(f64) -> bool) -> Run<'a, Val<'a>> {
    match (value.kind(), value.as_f64()) {
        (Kind::Number, Some(number)) => Ok(Val::Bool(is(number))),
        _ => refuse(value, "number required"),
    }
}
