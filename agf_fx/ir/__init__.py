"""The intermediate representation: vocabulary, graphs, facts, types, text and verification."""
