"""The engine `tgi`: text-generation-inference of Hugging Face."""
