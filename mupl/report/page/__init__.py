"""The page that a sweep ends with: one HTML file that opens without a network."""

from mupl.report.page.contents import Contents as Contents
from mupl.report.page.write import PAGE_FILE as PAGE_FILE
from mupl.report.page.write import write_page as write_page
from mupl.report.page.write import write_sweep_page as write_sweep_page
