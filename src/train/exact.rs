//! An f64 in JSON that comes back bit for bit: as text, in the fewest digits that tell it from its neighbours.

use serde::{Deserialize, Deserializer, Serializer};

pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{value:?}"))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Held(#[serde(with = "super")] f64);

    #[test]
    fn every_number_comes_back() {
        for value in [0.1, 1.0 / 3.0, 1e-300, f64::MAX, 2.5, f64::INFINITY, 1.7976931348623155e308] {
            let text = serde_json::to_string(&Held(value)).unwrap();
            assert_eq!(serde_json::from_str::<Held>(&text).unwrap().0.to_bits(), value.to_bits(), "{text}");
        }
    }
}
