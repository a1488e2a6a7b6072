import sys

from flowcache_core.cli import main

sys.exit(main())
