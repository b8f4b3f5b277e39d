//! Lengths of time.

use serde_json::json;
use tidewheel_lang::duration::millis;

#[test]
fn an_object_of_parts_is_their_sum() {
    let all = json!({"days": 1, "hours": 2, "minutes": 3, "seconds": 4, "milliseconds": 5});
    assert_eq!(millis(&all), Ok(86_400_000 + 7_200_000 + 180_000 + 4_000 + 5));
    assert_eq!(millis(&json!({"seconds": 1.5})), Ok(1500));
    assert_eq!(millis(&json!({"milliseconds": 0})), Ok(0));
}

#[test]
fn iso_8601_text_is_read() {
    for (text, expected) in [
        ("PT15M", 900_000),
        ("P1DT2H30M", 95_400_000),
        ("PT0.5S", 500),
        ("P2W", 1_209_600_000),
        ("PT36H", 129_600_000),
        ("PT0S", 0),
    ] {
        assert_eq!(millis(&json!(text)), Ok(expected), "{text}");
    }
}

#[test]
fn what_has_no_fixed_length_is_refused_with_the_reason() {
    for text in ["P1Y", "P1M", "P1Y2M3D"] {
        let error = millis(&json!(text)).unwrap_err();
        assert!(error.contains("no fixed length"), "{text}: {error}");
    }
    assert!(millis(&json!({"months": 1})).unwrap_err().contains("write days"));
}

#[test]
fn anything_else_is_refused_and_named() {
    for text in ["", "P", "PT", "15m", "PT15", "P1H", "PT1D", "PT1M1H", "P-1D", "PT1S1S", "PT..S", "P1DT"] {
        let error = millis(&json!(text)).unwrap_err();
        assert!(error.contains("ISO 8601"), "{text}: {error}");
    }
    assert!(millis(&json!({})).unwrap_err().contains("at least one"));
    assert!(millis(&json!({"second": 1})).unwrap_err().contains("`second`"));
    assert!(millis(&json!({"seconds": -1})).unwrap_err().contains("at least 0"));
    assert!(millis(&json!({"seconds": "1"})).unwrap_err().contains("number"));
    assert!(millis(&json!(5)).unwrap_err().contains("a duration is an object"));
    assert!(millis(&json!({"days": 4000})).unwrap_err().contains("3660 days"));
    assert!(millis(&json!({"days": 1e300})).is_err());
    assert!(millis(&json!(format!("PT{}S", "9".repeat(400)))).is_err());
}
