//! Dates and times. The clock is the turn's, the time zone is UTC.

use jiff::civil::DateTime;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::super::ops;
use super::super::tank::{Fault, Tank};
use super::super::value::{Kind, Val};
use super::{Args, Host, Row, Run, refuse};

pub(super) const TABLE: &[Row] = &[
    ("now", 0, |host, _, _| Ok(Val::Num(host.now as f64 / 1000.0))),
    ("gmtime", 0, |host, dot, _| broken_down(&dot, "gmtime", &mut host.tank)),
    ("localtime", 0, |host, dot, _| broken_down(&dot, "localtime", &mut host.tank)),
    ("mktime", 0, |_, dot, _| {
        if dot.kind() != Kind::Array {
            return Err(Fault::raise("mktime requires array of 6 numbers"));
        }
        let (time, _) = civil(&dot, "mktime")?;
        Ok(Val::Int(zoned(time, "mktime")?.timestamp().as_second()))
    }),
    ("strftime", 1, |host, dot, [format, ..]| format_time(host, &dot, &format, "strftime/1")),
    ("strflocaltime", 1, |host, dot, [format, ..]| format_time(host, &dot, &format, "strflocaltime/1")),
    ("strptime", 1, parse_time),
];

/// Bytes of a format.
const MAX_FORMAT: usize = 1024;

fn moment<'a>(seconds: f64, name: &str) -> Run<'a, Zoned> {
    let wrong = || Fault::raise(format!("{name}: the time is out of range"));
    if !seconds.is_finite() || seconds.abs() > 1e12 {
        return Err(wrong());
    }
    let time = Timestamp::from_second(seconds.floor() as i64).map_err(|_| wrong())?;
    Ok(time.to_zoned(TimeZone::UTC))
}

fn zoned<'a>(time: DateTime, name: &str) -> Run<'a, Zoned> {
    time.to_zoned(TimeZone::UTC).map_err(|_| Fault::raise(format!("{name}: the time is out of range")))
}

/// Year, month from 0, day, hour, minute, second, day of the week from Sunday, day of the year from 0.
fn broken_down<'a>(dot: &Val<'a>, name: &str, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let Some(seconds) = dot.as_f64() else {
        return Err(Fault::raise(format!("{name}() requires a number")));
    };
    let time = moment(seconds, name)?;
    parts(time.datetime(), seconds - seconds.floor(), tank)
}

fn parts<'a>(time: DateTime, fraction: f64, tank: &mut Tank) -> Run<'a, Val<'a>> {
    let numbers = [
        f64::from(time.year()),
        f64::from(time.month()) - 1.0,
        f64::from(time.day()),
        f64::from(time.hour()),
        f64::from(time.minute()),
        f64::from(time.second()) + fraction,
        f64::from(time.weekday().to_sunday_zero_offset()),
        f64::from(time.day_of_year()) - 1.0,
    ];
    Val::charged(numbers.into_iter().map(Val::number).collect(), tank)
}

/// The time that an array means, and the fraction of its second.
fn civil<'a>(dot: &Val<'a>, name: &str) -> Run<'a, (DateTime, f64)> {
    let wrong = || Fault::raise(format!("{name} requires parsed datetime inputs"));
    let mut numbers = [1970.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    if dot.len() == 0 {
        return Err(wrong());
    }
    for (at, number) in numbers.iter_mut().enumerate().take(dot.len()) {
        *number = dot.item(at).and_then(|item| item.as_f64()).filter(|value| value.is_finite()).ok_or_else(wrong)?;
    }
    let [year, month, day, hour, minute, second] = numbers;
    let fraction = second - second.floor();
    // What is out of range carries over, as 14 months do into the next year.
    let months = year.floor() * 12.0 + month.floor();
    let (year, month) = ((months / 12.0).floor(), months.rem_euclid(12.0));
    if !(-9999.0..=9999.0).contains(&year) {
        return Err(wrong());
    }
    let first = DateTime::new(year as i16, month as i8 + 1, 1, 0, 0, 0, 0).map_err(|_| wrong())?;
    let seconds = (day.floor() - 1.0) * 86_400.0 + hour.floor() * 3600.0 + minute.floor() * 60.0 + second.floor();
    if seconds.abs() > 1e12 {
        return Err(wrong());
    }
    let time = first.checked_add(jiff::SignedDuration::from_secs(seconds as i64)).map_err(|_| wrong())?;
    Ok((time, fraction))
}

fn format_time<'a>(host: &mut Host, dot: &Val<'a>, format: &Val<'a>, name: &str) -> Run<'a, Val<'a>> {
    let time = match dot.kind() {
        Kind::Number => moment(dot.as_f64().unwrap_or(f64::NAN), name)?,
        Kind::Array => zoned(civil(dot, name)?.0, name)?,
        _ => return Err(Fault::raise(format!("{name} requires parsed datetime inputs"))),
    };
    let Some(format) = format.as_str() else {
        return Err(Fault::raise(format!("{name} requires a string format")));
    };
    if format.len() > MAX_FORMAT {
        return Err(Fault::raise(format!("{name}: a format has at most {MAX_FORMAT} bytes")));
    }
    host.tank.work(20 + format.len() * 4)?;
    match strtime::format(format, &time) {
        Ok(text) => Val::text(&text, &mut host.tank),
        Err(error) => Err(Fault::raise(format!("{name}: {error}"))),
    }
}

fn parse_time<'a>(host: &mut Host, dot: Val<'a>, [format, ..]: Args<'a>) -> Run<'a, Val<'a>> {
    let Some(text) = dot.as_str() else {
        return refuse(&dot, "cannot be parsed as a date: strptime/1 requires string inputs and arguments");
    };
    let Some(format_text) = format.as_str() else {
        return Err(Fault::raise("strptime/1 requires string inputs and arguments"));
    };
    if format_text.len() > MAX_FORMAT {
        return Err(Fault::raise(format!("strptime/1: a format has at most {MAX_FORMAT} bytes")));
    }
    host.tank.work(20 + format_text.len() * 4 + text.len() / 16)?;
    let wrong = || Fault::raise(format!("date {} does not match format {}", ops::dump(&dot), ops::dump(&format)));
    let parsed = BrokenDownTime::parse(format_text, text).map_err(|_| wrong())?;
    let time = match (parsed.offset(), parsed.to_datetime()) {
        (Some(_), _) => parsed.to_timestamp().map_err(|_| wrong())?.to_zoned(TimeZone::UTC).datetime(),
        (None, Ok(time)) => time,
        (None, Err(_)) => match parsed.to_date() {
            Ok(date) => date.to_datetime(jiff::civil::Time::midnight()),
            Err(_) => return Err(wrong()),
        },
    };
    parts(time, f64::from(time.subsec_nanosecond()) / 1e9, &mut host.tank)
}
