//! The team, its repos and what it does to them.

/// Somebody who contributes.
pub(super) struct TeamMember {
    pub(super) name: &'static str,
    pub(super) email: &'static str,
}

/// A repo and the work that is done in it. `{place}` and `{number}` in a message are filled in.
pub(super) struct DemoRepo {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) messages: &'static [&'static str],
    pub(super) places: &'static [&'static str],
}

pub(super) const TEAM: [TeamMember; 7] = [
    TeamMember { name: "Ada Okafor", email: "ada.okafor@example.org" },
    TeamMember { name: "Bram de Vries", email: "bram.devries@example.org" },
    TeamMember { name: "Chen Wei", email: "chen.wei@example.org" },
    TeamMember { name: "Dolores Ruiz", email: "dolores.ruiz@example.org" },
    TeamMember { name: "Emeka Nwosu", email: "emeka.nwosu@example.org" },
    TeamMember { name: "Frida Lindqvist", email: "frida.lindqvist@example.org" },
    TeamMember { name: "Nightly import", email: "imports@example.org" },
];

pub(super) const REPOS: [DemoRepo; 5] = [
    DemoRepo {
        name: "retail-orders",
        description: "orders, refunds and returns of all shops, one bundle an import",
        messages: &[
            "Import the orders of week {number} from {place}",
            "Correct the currency of {number} refunds in {place}",
            "Drop the test orders that the load test left in {place}",
            "Backfill missing shop ids in {place}",
            "Rebuild the returns of {place} after the tax change",
        ],
        places: &["Lisbon", "Oslo", "Nairobi", "Osaka", "Montreal"],
    },
    DemoRepo {
        name: "sensor-readings",
        description: "temperature, humidity and vibration of every plant",
        messages: &[
            "Add {number} hours of readings from plant {place}",
            "Recalibrate the humidity sensors in {place} after a firmware update",
            "Remove readings of the broken sensor {number} in {place}",
            "Resample the vibration of line {number} in {place} to one second",
        ],
        places: &["Gdansk", "Porto", "Chennai", "Monterrey"],
    },
    DemoRepo {
        name: "street-images",
        description: "labelled photographs for the detection of road signs",
        messages: &[
            "Label {number} photographs taken in {place} at night",
            "Blur faces and number plates in the batch from {place}",
            "Split off {number} photographs of {place} for validation",
            "Fix swapped labels of yield and stop signs in {place}",
        ],
        places: &["Vienna", "Lima", "Hanoi", "Dublin"],
    },
    DemoRepo {
        name: "speech-corpus",
        description: "recorded sentences with transcripts and the consent of their speakers",
        messages: &[
            "Add {number} sentences read by speakers from {place}",
            "Withdraw the recordings of speaker {number} on request",
            "Correct transcripts after the review in {place}",
            "Normalize the loudness of the session in {place}",
        ],
        places: &["Glasgow", "Dakar", "Quebec", "Medellin"],
    },
    DemoRepo {
        name: "churn-model",
        description: "features, weights and reports of the model that predicts who leaves",
        messages: &[
            "Train on the features of week {number}",
            "Report the drift of the segment {place}",
            "Tune the threshold for {place} to a recall of {number} percent",
            "Retrain without the features that leaked the answer",
        ],
        places: &["small business", "students", "families", "enterprise"],
    },
];

/// Where people use what the catalogue holds.
pub(super) const CONTEXTS: [(&str, &str); 3] = [
    ("analytics", "dashboards and monthly reports"),
    ("training", "machines that train models"),
    ("audit", "read-only copies for the auditors"),
];

/// Labels in the order in which a bundle earns them.
pub(super) const LABELS: [&str; 3] = ["latest", "validated", "production"];

/// What a check that changes nothing may find.
pub(super) const FINDINGS: [&str; 4] = [
    "row counts agree with the source",
    "no personal data found in free text",
    "the schema is the same as last week's",
    "3 columns have more empty values than usual",
];
