"""Patterns and word lists of the sentences for speech synthesis.

``{thing}`` in a pattern is a word of the list ``thing``; ``{thing2}`` is another word of that list. ``a`` before a vowel becomes ``an``.
"""

from __future__ import annotations


def _list(text: str) -> list[str]:
    return [" ".join(word.split()) for word in text.split("|")]


WORDS: dict[str, list[str]] = {
    "who": _list(
        """the baker|my neighbour|our teacher|the tired pilot|the captain|his youngest sister|the night watchman|her cousin|the plumber|
        a stranger|the florist|their lawyer|the chef|my aunt|the drummer|an engineer|the children|our dentist|the farmer|that woman|
        the mayor|a tall boy|the juggler|everyone|the twins|nobody|the shepherd|your brother|the librarian|the mechanic|a young couple|
        the professor|the singer|two girls|the postman|an old friend|the butcher|somebody|the gardener|the whole village|the queen|
        a thief|my father|the choir|the nurse|one of us|the painter|their dog|the champion|a psychologist|the sergeant|the astronaut"""
    ),
    "name": _list(
        """Anna|Joyce|George|Theo|Charlotte|Vivian|Hugh|Beth|Zoe|Yusuf|Sheila|Victor|Kathy|Owen|Ruth|Giovanna|Quentin|Lucy|Ralph|
        Matthew|Priya|Ingrid|Walter|Naomi|Douglas|Judith|Felix|Ursula|Chester|Eve|Isaac|Phoebe|Bruce|Maya|Kenneth|Olive"""
    ),
    "adjective": _list(
        """ancient|awkward|beige|blunt|brave|brittle|broken|calm|careless|cheap|chilly|clever|crisp|crooked|curious|damp|dangerous|dark|
        dull|dusty|eager|early|elegant|empty|enormous|faint|famous|fierce|flat|fluffy|foreign|fragile|fresh|frozen|gentle|giant|glossy|
        golden|graceful|greasy|harsh|hollow|huge|humble|idle|jolly|juicy|large|lazy|little|lonely|loud|lovely|magnificent|marvellous|
        massive|mild|modern|muddy|mysterious|narrow|nervous|noisy|odd|orange|pale|peculiar|plain|pleasant|polished|precious|proud|purple|
        quick|quiet|rare|rough|round|rusty|scarlet|secret|sharp|shiny|short|silent|simple|sleepy|slippery|small|smooth|soft|sour|spare|
        square|steep|sticky|stiff|strange|striped|strong|sudden|sweet|swift|thick|thin|tiny|tough|ugly|usual|vague|vast|violet|warm|
        weak|wealthy|weird|wet|whole|wicked|wide|wild|wise|wooden|yellow|younger"""
    ),
    "thing": _list(
        """anchor|arch|axe|bag|balloon|bandage|basket|bathtub|bell|bench|bicycle|blanket|boat|bottle|bowl|bracelet|branch|brick|bridge|
        broom|brush|bucket|button|cabinet|cage|camera|canoe|carpet|chain|chair|chest|clock|cloth|coin|compass|crown|cup|curtain|cushion|
        desk|diamond|dictionary|drawer|drum|engine|envelope|feather|fence|flag|flute|fork|fountain|garage|gift|glove|guitar|hammer|
        handle|hat|helmet|hook|instrument|jacket|jar|jewel|jug|kettle|keyboard|knife|knot|ladder|lamp|leaf|lens|letter|lock|machine|
        magnet|map|mask|mattress|medal|microscope|mirror|necklace|needle|net|newspaper|notebook|oar|painting|paper|parachute|parcel|
        pencil|photograph|piano|pillow|pipe|plank|plate|pocket|pouch|puzzle|quilt|radio|rail|razor|ring|rope|ruler|saddle|scarf|
        pair of scissors|sculpture|shelf|shield|shoe|shovel|skirt|sofa|spade|sponge|spoon|spring|stamp|statue|stick|stool|suitcase|sweater|
        switch|sword|table|tape|tent|thermometer|thread|ticket|tile|tool|torch|towel|toy|tray|trowel|trumpet|typewriter|
        umbrella|vase|vehicle|violin|wagon|wallet|watch|wheel|whistle|window|wrench|yacht|zip"""
    ),
    "animal": _list(
        """ape|badger|bear|bee|beetle|camel|cat|cheetah|chicken|cow|crab|crow|deer|dog|dolphin|donkey|dove|duck|eagle|elephant|fish|fox|
        frog|giraffe|goat|goose|hawk|hedgehog|hippo|horse|jackal|jellyfish|kangaroo|leopard|lion|lizard|lynx|mole|monkey|moose|moth|
        mouse|mule|octopus|otter|owl|ox|parrot|peacock|penguin|pigeon|puppy|rabbit|raven|salmon|seal|shark|sheep|sloth|snail|snake|
        sparrow|spider|squirrel|stork|swan|thrush|tiger|toad|turtle|vulture|walrus|wasp|whale|wolf|worm|yak|zebra"""
    ),
    "food": _list(
        """almonds|apple juice|asparagus|bacon|bananas|beans|beetroot|bread|broth|butter|cabbage|cake|carrots|cherries|chips|chocolate|
        cinnamon|coconut|coffee|cookies|corn|cream|cucumber|custard|dates|dumplings|eggs|figs|fish|fudge|garlic|ginger|grapes|gravy|ham|
        honey|ice cream|jam|jelly|ketchup|leeks|lemonade|lentils|lettuce|lime|mango|melon|milk|mint|mushrooms|mustard|noodles|nuts|
        oatmeal|olives|onions|oysters|pancakes|parsley|pasta|peaches|pears|peas|pepper|pickles|pie|pizza|plums|porridge|potatoes|pudding|
        pumpkin|raisins|raspberries|rice|salad|salt|sausages|sesame|soup|spinach|strawberries|sugar|syrup|thyme|toast|tomatoes|treacle|
        turnips|vanilla|vinegar|waffles|walnuts|yoghurt"""
    ),
    "does": _list(
        """borrowed|bought|broke|brought|built|burned|carried|caught|chased|chose|cleaned|collected|counted|covered|crushed|described|
        designed|destroyed|discovered|drew|dropped|emptied|exchanged|explained|fetched|finished|fixed|followed|forgot|found|gathered|
        grabbed|guarded|heard about|hid|ignored|improved|inherited|invented|judged|kept|kicked|lifted|lost|measured|mended|missed|moved|
        needed|noticed|offered|opened|ordered|owned|packed|painted|photographed|polished|praised|promised us|pulled|purchased|pushed|
        recognised|refused|remembered|repaired|replaced|returned|saved|shared|shook|sketched|smashed|sold|spotted|squeezed|stole|
        swapped|threw away|tied up|touched|twisted|unwrapped|used|valued|wanted|washed|watched|weighed|wrapped"""
    ),
    "moves": _list(
        """arrived|blinked|breathed|changed|cheered|climbed|coughed|cried|dozed|escaped|fainted|fell|floated|froze|giggled|glanced up|
        groaned|grumbled|hesitated|hummed|hurried|jumped|knelt|laughed|leaned back|listened|marched|nodded|paused|rested|returned|rushed|
        sat down|screamed|shivered|shouted|shrugged|sighed|slept|slipped|smiled|sneezed|snored|spun|stared|stood up|stretched|stumbled|
        swam|swayed|trembled|vanished|waited|walked|wandered|waved|whispered|yawned"""
    ),
    "how": _list(
        """absolutely silently|again|all day|angrily|as usual|at last|badly|beautifully|bravely|briefly|by mistake|calmly|carefully|
        cautiously|cheerfully|clumsily|easily|every month|exactly once|fiercely|for an hour|gently|gladly|gracefully|hardly ever|
        honestly|immediately|in a hurry|in vain|just in time|like clockwork|loudly|more than once|nervously|never again|on purpose|
        out of habit|patiently|perfectly well|politely|quickly|quietly|rarely|roughly|rudely|sadly|shyly|slowly|smoothly|strangely|
        suddenly|thoroughly|together|too soon|twice|very early|warmly|without a sound|with great joy"""
    ),
    "where": _list(
        """above the fireplace|across the bridge|along the coast|among the ruins|around the corner|at the airport|at the theatre|
        at the edge of the forest|behind the garage|behind the station|below deck|beneath the oak|beside the river|between two hills|
        beyond the fence|by the lighthouse|down the road|far from home|in a village near Bath|in front of the church|in the attic|
        in the basement|in the desert|in the fog|in the kitchen|in the north|in the orchard|in the shade|in the valley|inside the cave|
        near the quiet lake|next to the bank|off the path|on the balcony|on the beach|on the last bus|on the roof|on the third floor|
        opposite the museum|outside the zoo|over the wall|past the harbour|through the tunnel|towards the south|under the stairs|
        underground|up the hill|upstairs|within the castle|at the laundrette"""
    ),
    "when": _list(
        """after lunch|after the earthquake|all through autumn|at breakfast|at dawn|at dusk|at half past eight|at midnight|at noon|
        at the weekend|before sunrise|before the concert|by Wednesday|during the storm|during the strike|each February|early in June|
        every other Thursday|fifteen minutes ago|five months later|for the first time|in a fortnight|in January|in July|in March|
        in the eighteenth century|in two thousand and four|last April|last night|late in August|long ago|next October|next year|
        on Christmas morning|on Friday the thirteenth|on Monday|on my birthday|on Saturday|on Sunday evening|on the fifth of May|
        on the twelfth|on Tuesday|once a week|one winter|right now|since September|the day before yesterday|this afternoon|this week|
        three years before|today|tomorrow|tonight|until November|while it rained|within an hour"""
    ),
    "place": _list(
        """Amsterdam|Athens|Berlin|Boston|Brussels|Cairo|Chicago|Cologne|Denver|Dublin|Edinburgh|Florida|Geneva|Glasgow|Houston|Istanbul|
        Jamaica|Kenya|Lisbon|London|Madrid|Memphis|Mexico City|Moscow|Naples|New York|Norway|Oxford|Paris|Prague|Quebec|Rome|
        San Francisco|Shanghai|Singapore|Stockholm|Sydney|Tokyo|Toronto|Vancouver|Venice|Vienna|Warsaw|Washington|Yorkshire|Zurich"""
    ),
    "job": _list(
        """billing|bookings|the box office|the cashier|claims|complaints|customer service|deliveries|the emergency desk|exchanges|finance|
        the front desk|general enquiries|the help desk|human resources|insurance|legal affairs|the manager|the mail room|membership|
        new accounts|the nurse on duty|orders|parking|payments|the press office|purchasing|reception|refunds|repairs|reservations|sales|
        security|shipping|student affairs|technical support|the ticket office|the treasurer|the warehouse|the workshop"""
    ),
    "item": _list(
        """access code|account number|address|birth date|booking number|choice|code word|date of arrival|employee number|full name|
        group number|house number|invoice number|language|last name|licence number|order number|passport number|password|phone number|
        postal code|question|reason for calling|room number|secret word|security code|serial number|telephone number|ticket number|
        user name|vehicle number|zip code"""
    ),
    "message": _list(
        """announcement|appointment|attachment|balance|bill|calendar|call|channel|conference|connection|contract|deposit|directory|
        email|extension|fax|folder|greeting|invitation|invoice|list|mailbox|meeting|menu|message|microphone|monthly report|network|
        notice|option|order|parcel|payment|profile|queue|recording|reminder|request|schedule|server|signal|speaker|subscription|survey|
        system|transfer|voicemail|volume|warranty|website"""
    ),
    "handled": _list(
        """accepted|activated|added|approved|archived|blocked|cancelled|changed|checked|closed|confirmed|copied|delayed|deleted|delivered|
        disabled|disconnected|edited|enabled|extended|forwarded|found|ignored|joined|locked|lost|moved|muted|opened|paused|postponed|
        printed|processed|received|recorded|refused|rejected|removed|renewed|repeated|reset|restored|saved|scheduled|sent|shared|skipped|
        started|stopped|stored|tested|transferred|unlocked|updated|verified"""
    ),
    "small": _list("one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"),
    "unit": _list("one|two|three|four|five|six|seven|eight|nine"),
    "digit": _list("zero|one|two|three|four|five|six|seven|eight|nine|oh"),
    "tens": _list("twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"),
    "count": _list(
        """two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|
        twenty|twenty-one|thirty-two|forty-three|fifty-four|sixty-five|seventy-six|eighty-seven|ninety-eight|one hundred|
        two hundred and five|one thousand|five thousand six hundred|nine million"""
    ),
    "ordinal": _list(
        """first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|fifteenth|twentieth|
        twenty-first|thirtieth|fortieth|fiftieth|hundredth|last|next"""
    ),
    "minute": _list("oh five|ten|fifteen|twenty|twenty-five|thirty|thirty-five|forty|forty-five|fifty|fifty-five|fifty-nine"),
    "letter": _list("A|B|C|D|E|F|G|H|I|J|K|L|M|N|O|P|Q|R|S|T|U|V|W|X|Y|Z"),
    "key": _list("one|two|three|four|five|six|seven|eight|nine|zero|star|the pound key|the hash key|any key"),
    "sound": _list(
        """act|aid|aim|amount|angle|asks|badge|bath|beige|birth|bolts|breadth|breeze|bulb|catch|chance|cheers|choice|clasp|clothes|cloud|
        crutch|crypts|cure|curved|depths|dreams|earth|edge|eighths|elms|fact|filmed|fires|flask|fleet|friends|fruit|fuel|girl|glimpsed|
        grasped|growth|guild|guests|hours|hinge|hulk|hymn|inch|jolts|joy|judge|kinks|lathe|laughed|length|lodge|lungs|masks|mirth|months|
        mouth|myths|nests|ninth|north|nymph|ounce|owls|oath|pact|palms|phrase|pinched|plunge|point|pool|prompts|psalm|pure|quartz|quest|
        quilts|range|rhythm|rouge|scalp|scripts|shelves|shirts|shrimp|shrugs|shy|sixths|skills|sleeve|smells|snout|solve|sphinx|splash|
        spoil|sprints|square|squint|strengths|stretch|swarm|swerve|tasks|texts|thanks|theft|thighs|thirst|thorn|thought|thrill|thumb|
        tossed|truth|tubes|twelfths|twists|verbs|voice|vow|waltz|warmth|wealth|wharf|wheels|widths|wolves|worlds|wrists|yearn|yields|
        youth|zest|zones"""
    ),
}

SHORT: dict[str, int] = {
    "{handled}.": 55,
    "{adjective}.": 60,
    "{food}.": 60,
    "{sound}, {sound2}, {sound3}.": 170,
    "{digit} {digit2} {digit3}.": 60,
    "{digit} {digit2}, {digit3} {digit4}.": 60,
    "{digit} {digit2} {digit3}, {digit4} {digit5} {digit6} {digit7}.": 60,
    "{tens} {unit}.": 72,
    "Number {count}.": 32,
    "The {ordinal}.": 22,
    "{letter} {letter2} {letter3}.": 78,
    "{letter}, as in {thing}.": 52,
    "{small} {minute}.": 36,
    "{name} {moves}.": 60,
    "To {place}, please.": 46,
    "{message} {handled}.": 100,
    "Press {key}.": 14,
    "Enter your {item}.": 32,
    "{job}.": 40,
    "Not {when}.": 56,
    "{how}.": 59,
}
"""Short patterns, with the number of sentences of each."""

PROMPTS: dict[str, int] = {
    "Please enter your {item}, followed by {key}.": 64,
    "For {job}, press {key}.": 80,
    "To have your {message} {handled}, press {key}.": 110,
    "Your {message} has been {handled}.": 110,
    "Your {message} could not be {handled}.": 55,
    "You have {count} new messages and {count2} old ones.": 32,
    "You are caller number {count}.": 32,
    "Please hold while we try {job}.": 40,
    "You are being connected to {job} in {place}.": 46,
    "{who} is on the other line.": 30,
    "Is your {item} {digit} {digit2} {digit3}?": 64,
    "Please say your {item} after the tone.": 32,
    "The {message} you asked for was {handled} {when}.": 56,
    "Extension {digit} {digit2} {digit3} does not answer.": 40,
    "Thank you for calling {job}; we are open from {small} to {small2}.": 40,
    "At the tone, the time will be {small} {minute}.": 40,
    "The train to {place} leaves from platform {small} at {small2} {minute}.": 92,
    "Flight {digit} {digit2} {digit3} from {place} is late by {count} minutes.": 46,
    "The balance of your account is {tens} dollars and {tens2} cents.": 40,
    "That is {count} percent more than {when}.": 40,
    "Spell it with {letter}, {letter2} and {letter3}.": 52,
}
"""Patterns of announcements on the telephone and in stations."""

STATEMENTS: dict[str, int] = {
    "{who} {does} the {adjective} {thing}.": 260,
    "{who} {does} a {adjective} {thing} {where}.": 260,
    "{when}, {who} {does} the {thing}.": 170,
    "{name} {moves} {how}.": 60,
    "{who} {moves} {where}.": 60,
    "{who} and {name} {moves} {how} {when}.": 60,
    "The {animal} {moves}, and the {animal2} {moves2} {how}.": 160,
    "There was a {adjective} {animal} {where}.": 160,
    "{name} said the {animal} was {adjective}.": 80,
    "A {adjective} {animal} is not as {adjective2} as a {adjective3} {animal2}.": 80,
    "We had {food} with {food2}.": 110,
    "I would rather eat {food} than {food2} {where}.": 110,
    "{name} likes {food}, {food2} and {food3}.": 96,
    "They sold {count} paintings of a {animal} {when}.": 80,
    "The {ordinal} {thing} costs {count} dollars.": 150,
    "{name} lives {where}, {count} miles from {place}.": 60,
    "It was {adjective} and {adjective2} in {place} {when}.": 70,
    "The {thing} belongs {where}.": 150,
    "If the {thing} is {adjective}, use the {thing2}.": 150,
    "Never put a {thing} next to the {food}.": 100,
    "She thinks that {who} {does} it {how}.": 90,
    "My word for today is {sound}, and not {sound2}.": 165,
}
"""Patterns of statements."""

QUESTIONS: dict[str, int] = {
    "Where is the {adjective} {thing}?": 150,
    "Who {does} my {thing}?": 150,
    "Did {who} really see a {animal} {where}?": 80,
    "Why should {who} wait {where}?": 52,
    "How many {animal} pictures are there in {place}?": 80,
    "Would you like some {food} or some {food2}?": 96,
    "What happened to {name} {when}?": 56,
    "Which {thing} did you choose, the {adjective} one or the {adjective2} one?": 150,
    "Can you hear a {animal} {where}?": 80,
    "Have you been to {place} or {place2} {when}?": 56,
    "Isn't that {thing} too {adjective}?": 150,
    "Could you hand me the {thing}, please?": 150,
}
"""Patterns of questions."""
