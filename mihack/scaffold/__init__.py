"""From a problem and a few answers to a research repo: plan (pure), then write (the only I/O).

percent    a percent-format script as cells, and back
knobs      the UPPER_CASE settings of an experiment: read, check, substitute
encode     catalogue text as Markdown, TOML and YAML that say exactly that text
engine     cookiecutter's template environment, rendering in memory
notebook   cells to .ipynb
plan       problem + answers -> {path: bytes}
write      stage, then one rename
generated_repo  the repo that one stands in, as its .mihack.json describes it
"""
