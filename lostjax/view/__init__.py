"""Numbers as text, pages of HTML and figures; knows nothing of training.

The only door to Jinja2 and matplotlib: `page.render_page` renders a template, and
`curves.draw_curves` and `heat_maps.draw_heat_map` draw for it.
"""
