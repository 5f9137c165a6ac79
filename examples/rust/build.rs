//! Writes the code of the contract with the `protoc` of the path, or that of the variable PROTOC.

fn main() -> std::io::Result<()> {
    let contract = "protos/inference_service/v1/model_service.proto";
    tonic_prost_build::configure()
        .build_server(false)
        .compile_protos(&[contract], &["protos"])
}
