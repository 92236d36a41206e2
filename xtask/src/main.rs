//! placeholder
fn main() {
    let bin = protoc_bin_vendored::protoc_bin_path().unwrap();
    println!("{}", bin.display());
}
