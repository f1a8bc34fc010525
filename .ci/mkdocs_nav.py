"""The pages of the site, in the sections and the order of the guide's index."""

from __future__ import annotations

from typing import Any

from asyncsink.cli.commands.help import topics_of_the_guide


def on_config(config: Any) -> Any:
    """Called by mkdocs with its configuration."""
    nav: list[Any] = [{"Guide": "index.md"}]
    sections: dict[str, list[Any]] = {}
    for topic in topics_of_the_guide():
        if topic.section not in sections:
            nav.append({topic.section: sections.setdefault(topic.section, [])})
        sections[topic.section].append(f"{topic.name}.md")
    config["nav"] = nav
    return config
