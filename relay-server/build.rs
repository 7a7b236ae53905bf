//! Embeds the pages anew when they were built anew: their names change with their contents.

fn main() {
    println!("cargo::rerun-if-changed=../web/dist");
}
